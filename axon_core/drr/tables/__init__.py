"""Spectra and mass attenuation, and the script that makes them."""
