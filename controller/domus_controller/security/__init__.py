"""Certificates, passwords, tokens, sealed secrets, and who may do what."""
