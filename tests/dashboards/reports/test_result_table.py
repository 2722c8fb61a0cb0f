"""What is written beneath a result table."""

from slimline.dashboards.reports.result_table import sheets
from tests.factories import result_row


def test_sizes_in_half_precision_and_what_training_did_are_beneath() -> None:
    trained = {"train_tokens": 26_200_000.0, "dev_bits_per_byte_before": 1.13, "dev_bits_per_byte": 0.6}
    rows = [
        result_row("original", disk_half_mb=14.5),
        result_row("slim", disk_half_mb=5.62, **trained),
        result_row("int8"),
    ]
    (sheet,) = sheets(rows)
    assert "disk in half precision, as checkpoints ship, MB: original 14.50, slim 5.62" in sheet.notes
    (training,) = (note for note in sheet.notes if note.startswith("slim: trained on"))
    assert "26.20 M tokens" in training and "1.130 -> 0.600 bits per byte" in training
