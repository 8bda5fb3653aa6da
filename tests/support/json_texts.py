"""Strings that JSON has to escape, or must not."""

from __future__ import annotations

from hypothesis import strategies as st

TEXT = st.text('ab:,[]{}"\\/0123456789.e-\n\t\x00\x7fé€\ue000😀', max_size=12)
