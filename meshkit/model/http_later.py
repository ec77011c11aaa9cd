"""Messages of VirtualService that do not run in this release, field by field.

They are listed whole, so that the table of fields is complete and a later release
only has to give them a build function.
"""

from __future__ import annotations

from meshkit.model.decode import FieldType, ListOf, Message, later
from meshkit.model.scalars import (
    ANY_STRING,
    BOOL,
    DURATION,
    INT,
    NUMBER,
    PORT,
    REGEX,
    STRING,
    enum,
)
from meshkit.model.string_match import STRING_MATCH

PERCENT = Message("Percent", (later("value", NUMBER),))

REDIRECT = Message(
    "HTTPRedirect",
    (
        later("uri", ANY_STRING),
        later("prefixRewrite", ANY_STRING),
        later("authority", STRING),
        later("port", PORT),
        later("derivePort", enum("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT")),
        later("scheme", STRING),
        later("redirectCode", INT),
    ),
)

DIRECT_RESPONSE = Message(
    "HTTPDirectResponse",
    (
        later("status", INT),
        later(
            "body", Message("HTTPBody", (later("string", ANY_STRING), later("bytes", ANY_STRING)))
        ),
    ),
)

DELEGATE = Message("Delegate", (later("name", STRING), later("namespace", STRING)))

REWRITE = Message(
    "HTTPRewrite",
    (
        later("uri", ANY_STRING),
        later("authority", STRING),
        later(
            "uriRegexRewrite",
            Message("RegexRewrite", (later("match", REGEX), later("rewrite", ANY_STRING))),
        ),
    ),
)

FAULT = Message(
    "HTTPFaultInjection",
    (
        later(
            "delay",
            Message(
                "Delay",
                (
                    later("fixedDelay", DURATION),
                    later("percentage", PERCENT),
                    later("percent", INT, "", "deprecated by Istio"),
                    later("exponentialDelay", DURATION, "", "never ran in Istio"),
                ),
            ),
        ),
        later(
            "abort",
            Message(
                "Abort",
                (
                    later("httpStatus", INT),
                    later("grpcStatus", STRING),
                    later("http2Error", STRING, "", "never ran in Istio"),
                    later("percentage", PERCENT),
                ),
            ),
        ),
    ),
)

CORS = Message(
    "CorsPolicy",
    (
        later("allowOrigin", ListOf(STRING), "", "deprecated by Istio"),
        later("allowOrigins", ListOf(STRING_MATCH)),
        later("allowMethods", ListOf(STRING)),
        later("allowHeaders", ListOf(STRING)),
        later("exposeHeaders", ListOf(STRING)),
        later("maxAge", DURATION),
        later("allowCredentials", BOOL),
        later("unmatchedPreflights", enum("UNSPECIFIED", "FORWARD", "IGNORE")),
    ),
)


def mirror(destination: FieldType) -> Message:
    return Message(
        "HTTPMirrorPolicy", (later("destination", destination), later("percentage", PERCENT))
    )
