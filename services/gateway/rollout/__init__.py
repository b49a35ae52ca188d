"""Which release answers whom: live, canary, shadow, and the way back."""
