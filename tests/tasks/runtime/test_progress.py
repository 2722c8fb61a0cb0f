"""Long work tells its listeners how far it is."""

from slimline.tasks.runtime.progress import progress_bar, progress_listener, report, track


def test_every_bar_is_heard() -> None:
    heard: list[tuple[str, float]] = []
    with progress_listener(lambda description, share: heard.append((description, share))):
        with progress_bar() as bar:
            task = bar.add_task("lexing", total=4)
            bar.advance(task)
            bar.update(task, completed=4)
        assert list(track([1, 2], "counting", 2)) == [1, 2]
        report("training", 0.5)
    report("unheard", 1.0)
    assert heard[:2] == [("lexing", 0.25), ("lexing", 1.0)]
    assert heard[-2][0] == "counting" and heard[-2][1] == 1.0
    assert heard[-1] == ("training", 0.5)
