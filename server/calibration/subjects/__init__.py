"""The subjects that models are measured on. Each question is made from a seed, asked, and scored from 0 to 1."""

from __future__ import annotations

from server.calibration.subjects.catalogue import SUBJECTS, Subject, subjects_of

__all__ = ["SUBJECTS", "Subject", "subjects_of"]
