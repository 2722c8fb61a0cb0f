#!/bin/sh
# One of Slurm's commands, by the name it is called: notes the call, and answers with what is in a file of that name.
name=$(basename "$0")
echo "$name $*" >> "$FAKE_SLURM/calls"
[ -e "$FAKE_SLURM/$name.err" ] && cat "$FAKE_SLURM/$name.err" >&2
[ -e "$FAKE_SLURM/$name.out" ] && cat "$FAKE_SLURM/$name.out"
[ -e "$FAKE_SLURM/$name.err" ] && exit 1
exit 0
