"""Every way the engine can refuse, one leaf per remedy, each with its exit code.

EngineError
├── UsageError            2   the command line is wrong: change the command
├── DataError            65   an input is wrong: change the file
│   ├── InputFileError        a file is missing, empty or not what its name says
│   ├── ContractError         a table breaks its contract (all faults at once)
│   ├── AlignmentError        labels of one table are missing in another
│   ├── ModelError            a risk model is not one (not symmetric, not PSD, units)
│   └── CalibrationError      the prices cannot carry a calibration
├── StorageError         74   the disk refuses: permissions, space, I/O
└── ConfigurationError   78   a universe, scenario or mandate is wrong: file:line:column

Two codes are not raised but returned: 1 with ``--fail-on-breach``, 3 when part of the
job was refused and the rest ran. 70 is any exception that is not an EngineError, 130 an
interrupt; ``engine.cli.main`` owns both.
"""

from collections.abc import Sequence

EXIT_OK = 0
EXIT_BREACH = 1
EXIT_PARTIAL = 3
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130


class EngineError(Exception):
    """A refusal meant for a person: what, where, found, allowed, what next."""

    exit_code = EXIT_INTERNAL


class UsageError(EngineError):
    """The command line asks for something that does not exist or contradicts itself."""

    exit_code = 2


class DataError(EngineError):
    """An input is wrong; the remedy is another file."""

    exit_code = 65


class InputFileError(DataError):
    """A file is missing, empty, or not of the format its name promises."""


class ContractError(DataError):
    """A table breaks its contract; carries every fault of the table.

    Args:
        source: The file or table at fault.
        faults: One line per fault, in the order of the contract.
    """

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        self.source = source
        self.faults = tuple(faults)
        head = f"{source}: {len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__("\n".join([head, *(f"  - {fault}" for fault in self.faults)]))


class AlignmentError(DataError):
    """Labels that one side needs are missing on the other.

    Args:
        axis: What the labels name, e.g. ``security``.
        missing: The labels that were not found, in order.
        source: The table that asked for them.
    """

    def __init__(self, axis: str, missing: Sequence[str], source: str) -> None:
        self.missing = tuple(missing)
        shown = ", ".join(self.missing[:5]) + (", ..." if len(self.missing) > 5 else "")
        super().__init__(
            f"{source}: {len(self.missing)} {axis} label{'s are' if len(self.missing) != 1 else ' is'} unknown: {shown}"
        )


class ModelError(DataError):
    """The tables of a risk model do not form one."""


class CalibrationError(DataError):
    """The prices cannot carry the calibration that was asked for."""


class StorageError(EngineError):
    """The file system refused to read or write."""

    exit_code = 74


class ConfigurationError(EngineError):
    """A universe, scenario or mandate is wrong; carries every fault of the file.

    Args:
        faults: Lines of the form ``file:line:column: what is wrong; what is allowed``.
    """

    exit_code = 78

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))
