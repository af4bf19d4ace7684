"""Tests for Windows alone: not collected elsewhere, each marked ``windows``."""
