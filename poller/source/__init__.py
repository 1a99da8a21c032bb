"""The FHIR server: every call through the gate, answers as sightings, failures as our own words."""
