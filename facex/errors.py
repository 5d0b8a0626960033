"""Errors meant for people: each message says what is wrong, where, and what to do."""


class FacexError(Exception):
    """Base of every error that facex raises on purpose; the command line prints its message without a traceback.

    `everywhere`: it was raised on every rank, so that all may go on together.
    """

    everywhere = False


class ConfigError(FacexError):
    """A configuration that cannot be right: an unknown key or name, values that contradict each other."""


class DataError(FacexError):
    """A data file or record that cannot be used; the message names the file, and the offset or key where there is one."""


class RecordError(DataError):
    """A malformed `.rec`, `.idx` or `property` file, or an image inside one that does not decode."""


class VerificationSetError(DataError):
    """A verification `.bin` file that is malformed, unsafe to read, or too small for the protocol."""


class CheckpointError(FacexError):
    """A checkpoint that is missing, damaged, of another architecture, or of another class count."""


class PluginError(FacexError):
    """A plugin that is not installed or fails to import."""


class TrainingError(FacexError):
    """Training cannot go on: a non-finite loss, a lost rank, a loss scale at its floor."""


class ExtensionError(FacexError):
    """The compiled extension `facex._C` is missing or was built for another PyTorch."""
