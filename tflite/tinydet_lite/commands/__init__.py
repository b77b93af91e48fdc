"""The commands of tinydet_lite, one a module: what scripts/ and the installed entry points call."""
