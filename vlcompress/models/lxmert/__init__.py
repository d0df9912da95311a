"""LXMERT: region features beside text, two streams that meet in cross-modality layers."""
