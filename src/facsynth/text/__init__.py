"""Text in and out: corpora, sample forms, chat templates."""

from facsynth.text.corpus import Corpus, read_corpus
from facsynth.text.forms import FORMS, form_roles, to_row, to_sample
from facsynth.text.layouts import Fields

__all__ = ["FORMS", "Corpus", "Fields", "form_roles", "read_corpus", "to_row", "to_sample"]
