"""Writers as seen from outside: every call kept in a ledger, and a fake that ships."""

from facsynth.llm.ledger import Ledger, Totals
from facsynth.llm.ledger_writer import LedgerWriter
from facsynth.llm.scripted import ScriptedWriter

__all__ = ["Ledger", "LedgerWriter", "ScriptedWriter", "Totals"]
