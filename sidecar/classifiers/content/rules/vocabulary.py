"""The built-in words and phrases of the key-word and label rules, as RE2 alternatives.

English, German, French, Spanish, Italian, Dutch, Portuguese and Polish, in this order. A blank stands for any
white space. Words that mean "owner" or "reserved" just as well (`propriétaire`, `riservato`) are not among those
that count anywhere.
"""

from __future__ import annotations

import re


def either(*parts: str) -> str:
    return "|".join(parts)


def spaced(alternatives: str) -> str:
    """RE2 in which each blank outside a class is any white space, also a line break inside a phrase."""
    return re.sub(r" (\??)(?![^\[]*\])", lambda blank: r"\s" + (blank.group(1) or "+"), alternatives)


CONFIDENTIAL = either(
    "confidential|proprietary",
    "vertraulich(?:e[mnrs]?)?",
    "confidentiel(?:le)?s?",
    "confidencia(?:l|les|is)",  # Portuguese too
    "confidenzial[ei]",
    "vertrouwelijke?",
    "poufn(?:e|y|a|ą|ego|ej|ych|ym)",
)

SECRETS = either(
    "secret",
    "geheim(?:e[mnrs]?)?",  # Dutch too
    "secr[eè]te",
    "secret[oa]|reservad[oa]",  # Portuguese too
    "segret[oa]|riservat[oa]",
    "segredo|sigilos[oa]",
    "tajn[eya]",
)

INTERNAL = either("internal", "intern(?:e[mnrs]?)?", "intern[oa]", "wewn[eę]trzn(?:[yea]|ego|ej|ych)")

SECRET_PHRASES = either(
    r"trade secrets?|top[ -]secret|strictly (?:secret|private)|secret and (?:confidential|proprietary)",
    r"(?:company|business|state|industrial|commercial|military|official|corporate) secrets?",
    r"streng geheim\w*|(?:geschäfts|betriebs|firmen|staats|dienst|handels)geheimnis\w*|verschlusssache|vs-nfd",
    r"vs ?[-–] ?nur für den dienstgebrauch|proprietäre (?:informationen|daten)",
    r"(?:très )?secrets? (?:d[’']affaires|des affaires|industriels?|commercia(?:l|ux)|professionnels?)",
    r"secrets? (?:de fabrication|défense|d[’']état|d[’']entreprise)|très secret|diffusion restreinte",
    r"informations? propriétaires?",
    r"secretos? (?:comercial|industrial|empresarial)(?:es)?|secretos? de estado|alto secreto",
    r"información (?:reservada|propietaria)",
    r"segret[oi] (?:commercial|industrial|aziendal)[ei]|segret[oi] (?:di stato|d[’']ufficio)",
    r"strettamente riservat\w|informazioni (?:riservate|proprietarie)|documento riservato",
    r"(?:bedrijfs|staats|handels|fabrieks|ambts)geheim(?:en)?|(?:zeer|strikt) geheim",
    r"segredos? (?:comercia|industria|empresaria)(?:l|is)|segredos? (?:de negócio|de estado)|ultrassecreto",
    r"informaç(?:ão|ões) (?:reservadas?|proprietárias?|sigilosas?)",
    r"tajemnic[aeęyą] (?:przedsiębiorstwa|handlow\w+|firmow\w+|służbow\w+|państwow\w+|zawodow\w+)",
    r"ściśle tajn\w+|informacj[aei] niejawn\w+",
)

INTERNAL_PHRASES = either(
    r"(?:strictly|company) internal|internal (?:only|document|memo|memorandum|company document)",
    r"(?:streng|nur|rein) intern|(?:firmen|betriebs|konzern|haus)intern\w*|internes (?:dokument|papier)",
    r"(?:document|note) interne",
    r"documento interno",  # Spanish, Italian and Portuguese
    r"intern document",
    r"dokument wewnętrzny",
)

DISTRIBUTION_LIMITS = either(
    r"for (?:internal|company|employee|staff|official) (?:use|distribution|circulation)(?: only)?",
    r"for (?:all )?(?:employees|staff|personnel|employee eyes|company eyes|internal eyes) only",
    r"(?:internal|company|employee|staff|official)[ -]use[ -]only|(?:employees|staff|eyes)[ -]only",
    r"internal distribution only|limited distribution|need[ -]to[ -]know basis",
    r"(?:do|must|may|should|shall) not (?:be )?(?:re)?(?:distribut|disseminat|circulat)ed?",
    r"do not (?:forward|disclose)",
    r"do not (?:share|copy|publish|post)(?: this| it| document)* (?:outside|externally|beyond)",
    r"not for (?:external |public |further |general |onward )?(?:distribution|release|circulation|dissemination)",
    r"not for (?:external |public )?publication|not for (?:external|public) use",
    r"not to be (?:shared|distributed|disclosed|forwarded|circulated|published)",
    r"(?:nur )?(?:für den|zum|zur) (?:ausschließlich )?(?:internen|dienstlichen) (?:gebrauch|verwendung|verteilung)",
    r"nur für (?:den dienstgebrauch|mitarbeiter\w*|beschäftigte|angestellte|interne zwecke)",
    r"nicht (?:zur (?:veröffentlichung|weitergabe|verteilung|weiterleitung)|weitergeben|weiterleiten|verteilen)",
    r"(?:à |pour )?usage (?:strictement )?interne|diffusion interne",
    r"ne pas (?:diffuser|distribuer|divulguer|transmettre)",
    r"réservé (?:au personnel|aux collaborateurs|aux employés|à un usage interne|à l[’']usage interne)",
    r"(?:para |de |solo )?uso (?:estrictamente )?interno",
    r"no (?:distribuir|divulgar|difundir)|(?:solo|sólo) para empleados",
    r"non (?:distribuire|divulgare|diffondere)|(?:solo )?per (?:i )?dipendenti",
    r"(?:alleen |uitsluitend )?voor intern gebruik|niet (?:verspreiden|doorsturen)",
    r"alleen voor (?:medewerkers|personeel)",
    r"não (?:distribuir|divulgar|encaminhar)|apenas para funcionários",
    r"(?:tylko |wyłącznie )?do użytku wewnętrznego|nie (?:rozpowszechniać|udostępniać)|tylko dla pracowników",
)

LABEL_KEYS = either(
    r"(?:data|document|information|security|asset|content)[ _-]?classification(?:[ _-]?(?:level|label|marking))?",
    r"classification(?:[ _-]?(?:level|label|marking))?|data[ _-]?class",
    r"(?:information |data )?sensitivity(?:[ _-]?(?:label|level))?|confidentiality(?:[ _-]?(?:level|class))?",
    r"security[ _-]?(?:level|marking)|protective[ _-]?marking|privacy[ _-]?level",
    r"(?:daten|dokumenten?|informations|sicherheits)?klassifi(?:zierung|kation)(?:sstufe)?|(?:sicherheits)?einstufung",
    r"vertraulichkeit(?:sstufe|sklasse|sgrad|slevel)?|schutzklasse|geheimhaltungs(?:stufe|grad)",
    r"niveau de (?:classification|confidentialit[ée])|confidentialit[ée]",
    r"clasificaci[óo]n|(?:nivel de )?confidencialidad",
    r"classificazione|(?:livello di )?riservatezza",
    r"classificatie|rubricering|vertrouwelijkheid(?:sniveau)?",
    r"classifica[çc][ãa]o|(?:n[íi]vel de )?confidencialidade",
    r"klasyfikacja|poufno[śs][ćc]|poziom poufno[śs]ci|klauzula(?: tajno[śs]ci)?",
)

LABEL_PII = r"pii|personal data|personally identifiable(?: information)?|personenbezogen\w*"

LABEL_CONFIDENTIAL = either(
    r"(?:strictly |highly |company |commercial[ -]in[ -])?confiden(?:tial|ce)|(?:highly )?restricted",
    r"(?:top |strictly )?secret|strictly private|private|(?:highly )?sensitive|classified|proprietary",
    r"need[ -]to[ -]know|official[ -:]+sensitive",
    r"(?:streng )?vertraulich\w*|(?:streng )?geheim\w*|verschlusssache|vs-nfd|vs ?- ?vertraulich|eingeschränkt",
    r"(?:strictement |très )?confidentiel(?:le)?s?|très secret|diffusion restreinte|restreinte?",
    r"(?:estrictamente |estritamente )?confidencial|(?:alto |ultra|ultras)?secret[oa]|reservad[oa]|restringid[oa]",
    r"(?:strettamente )?(?:confidenziale|riservat[oa])|segretissimo|segret[oa]",
    r"(?:strikt |zeer )?vertrouwelijk",
    r"restrit[oa]|sigilos[oa]|segredo",
    r"(?:ściśle )?poufne|(?:ściśle )?tajne|zastrzeżone",
)

LABEL_INTERNAL = either(
    r"(?:company |strictly )?internal(?: use)?(?: only)?|(?:employees|staff) only|company use",
    r"(?:nur |streng )?intern[aeo]?|(?:firmen|betriebs)intern",
    r"usage interne",
    r"uso interno",
    r"intern gebruik",
    r"(?:do użytku )?wewnętrzn\w+",
)

LABEL_PUBLIC = either(
    r"public(?:ly available)?|unclassified|öffentlich|publique|públic[oa]|pubblic[oa]|openbaar|publiczn\w|jawne"
)
