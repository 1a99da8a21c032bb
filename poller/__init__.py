"""An event feed for FHIR servers that can only be asked."""
