"""The whole chain as one value: presets, overrides and own data."""
