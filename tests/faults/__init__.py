"""What a person can get wrong, one row a fault; `test_faults.py` runs every row. Each area has a module of rows."""

from faults import commands, config, data, detection, files, hostile, methods, models, students, task_loss
from faults.row import Fault

FAULTS: list[Fault] = [
    Fault(*row) if isinstance(row, tuple) else row
    for area in (commands, config, data, detection, files, hostile, methods, models, students, task_loss)
    for row in area.FAULTS
]
