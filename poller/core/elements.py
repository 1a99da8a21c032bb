"""Names of the elements that resources of FHIR R4 have, so that a path that names none is refused and not silently without effect."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

COMMON: Final = frozenset(
    ["id", "meta", "implicitRules", "language", "text", "contained", "extension", "modifierExtension", "resourceType"]
)
"""Of every type."""

META: Final = frozenset({"id", "extension", "versionId", "lastUpdated", "source", "profile", "security", "tag"})
"""Of ``meta``."""

_OWN: Final = {
    "AllergyIntolerance": (
        "asserter category clinicalStatus code criticality encounter identifier lastOccurrence note onsetAge "
        "onsetDateTime onsetPeriod onsetRange onsetString patient reaction recordedDate recorder type "
        "verificationStatus"
    ),
    "CarePlan": (
        "activity addresses author basedOn careTeam category contributor created description encounter goal "
        "identifier instantiatesCanonical instantiatesUri intent note partOf period replaces status subject "
        "supportingInfo title"
    ),
    "CareTeam": (
        "category encounter identifier managingOrganization name note participant period reasonCode reasonReference "
        "status subject telecom"
    ),
    "ChargeItem": (
        "account bodysite code context costCenter definitionCanonical definitionUri enteredDate enterer "
        "factorOverride identifier note occurrenceDateTime occurrencePeriod occurrenceTiming overrideReason partOf "
        "performer performingOrganization priceOverride productCodeableConcept productReference quantity reason "
        "requestingOrganization service status subject supportingInformation"
    ),
    "Claim": (
        "accident billablePeriod careTeam created diagnosis enterer facility fundsReserve identifier insurance "
        "insurer item originalPrescription patient payee prescription priority procedure provider referral related "
        "status subType supportingInfo total type use"
    ),
    "Condition": (
        "abatementAge abatementDateTime abatementPeriod abatementRange abatementString asserter bodySite category "
        "clinicalStatus code encounter evidence identifier note onsetAge onsetDateTime onsetPeriod onsetRange "
        "onsetString recordedDate recorder severity stage subject verificationStatus"
    ),
    "Coverage": (
        "beneficiary class contract costToBeneficiary dependent identifier network order payor period policyHolder "
        "relationship status subrogation subscriber subscriberId type"
    ),
    "Device": (
        "contact definition deviceName distinctIdentifier expirationDate identifier location lotNumber "
        "manufactureDate manufacturer modelNumber note owner parent partNumber patient property safety serialNumber "
        "specialization status statusReason type udiCarrier url version"
    ),
    "DiagnosticReport": (
        "basedOn category code conclusion conclusionCode effectiveDateTime effectivePeriod encounter identifier "
        "imagingStudy issued media performer presentedForm result resultsInterpreter specimen status subject"
    ),
    "DocumentReference": (
        "authenticator author category content context custodian date description docStatus identifier "
        "masterIdentifier relatesTo securityLabel status subject type"
    ),
    "Encounter": (
        "account appointment basedOn classHistory class diagnosis episodeOfCare hospitalization identifier length "
        "location partOf participant period priority reasonCode reasonReference serviceProvider serviceType status "
        "statusHistory subject type"
    ),
    "FamilyMemberHistory": (
        "ageAge ageRange ageString bornDate bornPeriod bornString condition dataAbsentReason date deceasedAge "
        "deceasedBoolean deceasedDate deceasedRange deceasedString estimatedAge identifier instantiatesCanonical "
        "instantiatesUri name note patient reasonCode reasonReference relationship sex status"
    ),
    "Goal": (
        "achievementStatus addresses category description expressedBy identifier lifecycleStatus note outcomeCode "
        "outcomeReference priority startCodeableConcept startDate statusDate statusReason subject target"
    ),
    "Immunization": (
        "doseQuantity education encounter expirationDate fundingSource identifier isSubpotent location lotNumber "
        "manufacturer note occurrenceDateTime occurrenceString patient performer primarySource programEligibility "
        "protocolApplied reaction reasonCode reasonReference recorded reportOrigin route site status statusReason "
        "subpotentReason vaccineCode"
    ),
    "Location": (
        "address alias availabilityExceptions description endpoint hoursOfOperation identifier managingOrganization "
        "mode name operationalStatus partOf physicalType position status telecom type"
    ),
    "Media": (
        "basedOn bodySite content createdDateTime createdPeriod device deviceName duration encounter frames height "
        "identifier issued modality note operator partOf reasonCode status subject type view width"
    ),
    "Medication": "amount batch code form identifier ingredient manufacturer status",
    "MedicationAdministration": (
        "category context device dosage effectiveDateTime effectivePeriod eventHistory identifier instantiates "
        "medicationCodeableConcept medicationReference note partOf performer reasonCode reasonReference request "
        "status statusReason subject supportingInformation"
    ),
    "MedicationDispense": (
        "authorizingPrescription category context daysSupply destination detectedIssue dosageInstruction eventHistory "
        "identifier location medicationCodeableConcept medicationReference note partOf performer quantity receiver "
        "status statusReasonCodeableConcept statusReasonReference subject substitution supportingInformation type "
        "whenHandedOver whenPrepared"
    ),
    "MedicationRequest": (
        "authoredOn basedOn category courseOfTherapyType detectedIssue dispenseRequest doNotPerform dosageInstruction "
        "encounter eventHistory groupIdentifier identifier instantiatesCanonical instantiatesUri insurance intent "
        "medicationCodeableConcept medicationReference note performer performerType priorPrescription priority "
        "reasonCode reasonReference recorder reportedBoolean reportedReference requester status statusReason subject "
        "substitution supportingInformation"
    ),
    "Observation": (
        "basedOn bodySite category code component dataAbsentReason derivedFrom device effectiveDateTime "
        "effectiveInstant effectivePeriod effectiveTiming encounter focus hasMember identifier interpretation issued "
        "method note partOf performer referenceRange specimen status subject valueBoolean valueCodeableConcept "
        "valueDateTime valueInteger valuePeriod valueQuantity valueRange valueRatio valueSampledData valueString "
        "valueTime"
    ),
    "Organization": "active address alias contact endpoint identifier name partOf telecom type",
    "Patient": (
        "active address birthDate communication contact deceasedBoolean deceasedDateTime gender generalPractitioner "
        "identifier link managingOrganization maritalStatus multipleBirthBoolean multipleBirthInteger name photo "
        "telecom"
    ),
    "Practitioner": "active address birthDate communication gender identifier name photo qualification telecom",
    "PractitionerRole": (
        "active availabilityExceptions availableTime code endpoint healthcareService identifier location notAvailable "
        "organization period practitioner specialty telecom"
    ),
    "Procedure": (
        "asserter basedOn bodySite category code complication complicationDetail encounter focalDevice followUp "
        "identifier instantiatesCanonical instantiatesUri location note outcome partOf performedAge performedDateTime "
        "performedPeriod performedRange performedString performer reasonCode reasonReference recorder report status "
        "statusReason subject usedCode usedReference"
    ),
    "Provenance": (
        "activity agent entity location occurredDateTime occurredPeriod policy reason recorded signature target"
    ),
    "QuestionnaireResponse": (
        "author authored basedOn encounter identifier item partOf questionnaire source status subject"
    ),
    "RelatedPerson": (
        "active address birthDate communication gender identifier name patient period photo relationship telecom"
    ),
    "ServiceRequest": (
        "asNeededBoolean asNeededCodeableConcept authoredOn basedOn bodySite category code doNotPerform encounter "
        "identifier instantiatesCanonical instantiatesUri insurance intent locationCode locationReference note "
        "occurrenceDateTime occurrencePeriod occurrenceTiming orderDetail patientInstruction performer performerType "
        "priority quantityQuantity quantityRange quantityRatio reasonCode reasonReference relevantHistory replaces "
        "requester requisition specimen status subject supportingInfo"
    ),
    "Specimen": (
        "accessionIdentifier collection condition container identifier note parent processing receivedTime request "
        "status subject type"
    ),
}

ELEMENTS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {name: COMMON | frozenset(own.split()) for name, own in _OWN.items()}
)
"""By type, all of them."""
