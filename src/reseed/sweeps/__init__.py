"""DVC experiments handed to a scheduler: queued with `dvc exp run --queue` or a sweep file, run on many machines."""
