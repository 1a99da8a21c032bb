"""What an eClinicalWorks practice says of itself, as recorded 2026-08-14 from a production ``/metadata`` and smart configuration."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Collection

_TABLE = """
AllergyIntolerance   _id:token clinical-status:token encounter:reference patient:reference
Basic                code:token page:string patient:reference
Binary
CarePlan             _id:token category:token encounter:reference patient:reference
CareTeam             _id:token patient:reference status:token
ChargeItem           context:reference subject:reference
Claim
Condition            _id:token category:token encounter:reference onset-date:date page:string patient:reference
Coverage             _id:token patient:reference
Device               _id:token encounter:reference patient:reference type:token
DiagnosticReport     _id:token category:token code:token date:date encounter:reference page:string patient:reference status:token
DocumentReference    _id:token category:token contenttype:token date:date encounter:reference page:string patient:reference type:token
Encounter            _id:token date:date location:reference page:string patient:reference practitioner:reference
FamilyMemberHistory  _id:token patient:reference
Goal                 _id:token encounter:reference patient:reference
Group                page:string
Immunization         _id:token date:date encounter:reference page:string patient:reference status:token
Location             _id:token address:string name:string page:string
Media                _id:token
Medication           _id:token
MedicationAdministration _id:token context:reference patient:reference status:token
MedicationDispense   _id:token patient:reference
MedicationRequest    _id:token authoredon:date encounter:reference intended-dispenser:reference intent:token page:string patient:reference status:token
Observation          _id:token _since:date category:token code:token date:date encounter:reference identifier:token page:string patient:reference status:token
OperationDefinition
Organization         _id:token address:string address-postalcode:string name:string page:string type:token
Patient              _id:token birthdate:date family:string gender:token given:string identifier:token name:string page:string phone:token
Practitioner         _id:token identifier:token name:string page:string
PractitionerRole     _id:token location:reference name:string page:string practitioner:reference role:token specialty:token
Procedure            _id:token code:token date:date encounter:reference page:string patient:reference status:token
Provenance           _id:token
Questionnaire        _id:token code:token
QuestionnaireResponse _id:token authored:date patient:reference status:token
RelatedPerson        _id:token
ServiceRequest       _id:token authored:date category:token code:token occurrence:date page:string patient:reference status:token
Specimen             _id:token patient:reference
"""  # noqa: E501 - one type a line reads as the table that it is

DECLARED: dict[str, dict[str, str]] = {
    words[0]: dict(word.split(":") for word in words[1:])
    for words in (line.split() for line in _TABLE.strip().splitlines())
}
"""Resource type → search parameter → its type, for all 36 types."""

READ_ONLY = frozenset({"Binary", "Claim", "OperationDefinition"})
SEARCH_ONLY = frozenset({"Group"})

PER_PATIENT = frozenset(kind for kind, parameters in DECLARED.items() if "patient" in parameters)
"""Types that are searched patient by patient."""

NEEDS_CATEGORY = frozenset({"Observation"})

UNPAGED = frozenset(kind for kind, parameters in DECLARED.items() if "page" not in parameters)
"""Types without ``page``: everything in one answer."""

ONLY_R = frozenset(
    {
        *("Binary", "Claim", "Coverage", "Media", "MedicationDispense", "QuestionnaireResponse"),
        *("RelatedPerson", "ServiceRequest", "Specimen"),
    }
)
"""Types whose system scope is declared as ``.r`` only."""

NEW_IN_V3 = frozenset(
    {"Media", "MedicationDispense", "QuestionnaireResponse", "RelatedPerson", "ServiceRequest", "Specimen"}
)
"""Types that a build with USCDI v1 does not have; Coverage came by itself, with 12.0.2."""

_OPEN_EXTRA = {"_lastUpdated": "date", "_count": "number", "_sort": "string"}
_EVERY = {"_format": "token"}
_REVINCLUDE = {"_revinclude": "string"}
_EVERYTHING = frozenset({"Encounter", "Patient"})
_EVERYTHING_DEFINITION = "OperationDefinition/EncounterPatient-i-everything"

Mode = Literal["ecw", "open"]


def declared(mode: Mode, resource_type: str) -> dict[str, str]:
    """Search parameters that a practice of this mode knows for a type; empty for a type that it does not serve."""
    parameters = DECLARED.get(resource_type, {})
    if mode == "open" and parameters:
        known = {**parameters, **_OPEN_EXTRA}
        known.pop("page", None)
        return known
    return parameters


def accepted(mode: Mode, resource_type: str) -> frozenset[str]:
    """Declared parameters and those that any search may carry."""
    return frozenset({**declared(mode, resource_type), **_EVERY, **_REVINCLUDE})


def scope_allowed(scope: str, *, bulk: bool, missing: Collection[str] = ()) -> bool:
    """Whether an app of the practice may ask for this system scope.

    ``bulk``: it was registered for bulk export; ``missing``: types that it was not registered for.
    """
    context, _, rest = scope.partition("/")
    kind, _, access = rest.rpartition(".")
    if context != "system" or not kind:
        return False
    if kind == "*":
        return access in {"r", "rs", "read"}
    if kind not in DECLARED or kind in missing or (kind == "Group" and not bulk):
        return False
    return access == "r" if kind in ONLY_R else access in {"r", "rs", "read"}


@cache
def capability_statement(mode: Mode, base_url: str, *, everything: bool = False) -> dict[str, Any]:
    """The answer to ``/metadata``, in the recorded shape for ecw: that one declares ``$everything`` whether it works or not."""
    resources = []
    for kind in DECLARED:
        parameters = declared(mode, kind)
        codes = ["read"] if kind in READ_ONLY else ["search-type"] if kind in SEARCH_ONLY else ["search-type", "read"]
        entry: dict[str, Any] = {"type": kind, "interaction": [{"code": code} for code in codes]}
        if parameters and kind not in READ_ONLY:
            entry["searchParam"] = [{"name": name, "type": sort} for name, sort in parameters.items()]
        if kind in _EVERYTHING and (everything or mode == "ecw"):
            entry["operation"] = [{"name": "everything", "definition": f"{base_url}/{_EVERYTHING_DEFINITION}"}]
        resources.append(entry)
    ecw = mode == "ecw"
    return {
        "resourceType": "CapabilityStatement",
        "id": "eCWFhirFacade" if ecw else "open",
        "version": "2.0",
        "name": "eCW FHIR Facade" if ecw else "Open FHIR server",
        "status": "active",
        "date": "2026-08-14T17:04:21.203-04:00",
        "publisher": "eClinicalWorks" if ecw else "Simulator",
        "kind": "instance",
        "software": {"name": "eCW FHIR Facade" if ecw else "Open FHIR server", "version": "1.6"},
        "implementation": {"description": "Simulated practice", "url": base_url},
        "fhirVersion": "4.0.1",
        "format": ["xml", "json"],
        "rest": [{"mode": "server", "resource": resources}],
    }


def smart_configuration(issuer: str, token_url: str) -> dict[str, Any]:
    """The answer to ``/.well-known/smart-configuration``, reduced to what a backend service reads."""
    scopes = [
        f"system/{kind}.{access}" for kind in DECLARED for access in (("r",) if kind in ONLY_R else ("read", "rs", "r"))
    ]
    return {
        "issuer": issuer,
        "token_endpoint": token_url,
        "grant_types_supported": ["authorization_code", "client_credentials", "refresh_token"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["RS384"],
        "capabilities": ["permission-v1", "permission-v2", "client-confidential-asymmetric"],
        "scopes_supported": [*scopes, "system/*.r"],
        "response_types_supported": ["code", "id_token"],
        "code_challenge_methods_supported": ["S256"],
    }
