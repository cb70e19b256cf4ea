"""Settings, all from environment variables (table in docs/settings.md). Composition root: imports every app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import environ

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

DEBUG = env.bool("FLEET_DEBUG", default=False)
SECRET_KEY = env.str("FLEET_SECRET_KEY")
ALLOWED_HOSTS = env.list("FLEET_ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("FLEET_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_htmx",
    "csp",
    "axes",
    "fleet.control",
    "fleet.events",
    "fleet.safety",
    "fleet.api",
    "clusters",
    "machines",
    "recovery",
    "simulator",
    "fleet.console",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]
APPEND_SLASH = False
DATA_UPLOAD_MAX_MEMORY_SIZE = 3 * 1024 * 1024  # as much as the API reads
ROOT_URLCONF = "fleet.urls"
ASGI_APPLICATION = "fleet.asgi.application"
WSGI_APPLICATION = "fleet.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

DATABASES: dict[str, Any] = {"default": env.db_url("DATABASE_URL", default="postgres:///fleet")}
DATABASES["default"]["ENGINE"] = "django.db.backends.postgresql"
DATABASE_DIRECT_URL = env.str("DATABASE_DIRECT_URL", default="")  # for LISTEN when DATABASE_URL goes through a pooler
REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = 0.25  # hours
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_TEMPLATE = "console/locked.html"
LOGIN_URL = "/login"
LOGIN_REDIRECT_URL = "/"
SESSION_COOKIE_AGE = env.int("FLEET_SESSION_SECONDS", default=12 * 3600)
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = env.bool("FLEET_SECURE_COOKIES", default=True)
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

_SELF = ["'self'"]
CONTENT_SECURITY_POLICY: dict[str, Any] = {
    "EXCLUDE_URL_PREFIXES": ("/admin/",),
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": _SELF,
        "style-src": _SELF,
        "img-src": _SELF,
        "font-src": _SELF,
        "connect-src": _SELF,
        "form-action": _SELF,
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    },
}

LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Where collectstatic put the files; empty = they are found where they lie.
STATIC_ROOT = env.str("FLEET_STATIC_ROOT", default="") or None
WHITENOISE_USE_FINDERS = STATIC_ROOT is None

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["fleet.api.authentication.BearerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNAUTHENTICATED_USER": None,
}

# Fleet's own
FLEET_ALLOWED_NETWORKS = env.list("FLEET_ALLOWED_NETWORKS", default=[])  # private ranges that hosts may stand in
FLEET_PUBLIC_KEY = env.str("FLEET_PUBLIC_KEY", default="")  # base64, X25519: web processes seal credentials to it
FLEET_PRIVATE_KEY = env.str("FLEET_PRIVATE_KEY", default="")  # base64; workers only
FLEET_HMAC_KEY = env.str("FLEET_HMAC_KEY", default=SECRET_KEY)
FLEET_REQUIRE_APPROVAL = env.bool("FLEET_REQUIRE_APPROVAL", default=True)
FLEET_APPROVAL_OVER = env.int("FLEET_APPROVAL_OVER", default=20)  # machines that one person alone may act on at once
FLEET_NOTIFY_WEBHOOK = env.str("FLEET_NOTIFY_WEBHOOK", default="")  # told what people must look at, as JSON
FLEET_NOTIFY_SECRET = env.str("FLEET_NOTIFY_SECRET", default="")  # signs what is posted there
FLEET_NOTIFY_ALERTMANAGER = env.str("FLEET_NOTIFY_ALERTMANAGER", default="")
FLEET_NOTIFY_MAIL = env.list("FLEET_NOTIFY_MAIL", default=[])  # addresses
FLEET_HEARTBEAT_URL = env.str("FLEET_HEARTBEAT_URL", default="")  # posted to while Fleet's workers and database live
vars().update(env.email_url("FLEET_MAIL_URL", default="consolemail://"))
DEFAULT_FROM_EMAIL = env.str("FLEET_MAIL_FROM", default="fleet@localhost")
FLEET_INSTALLATION = env.str("FLEET_INSTALLATION", default="")  # "<uuid>:<incarnation>" this deployment belongs to
FLEET_TICKET_URL = env.str("FLEET_TICKET_URL", default="")  # where hardware tickets are posted to
FLEET_TICKET_SECRET = env.str("FLEET_TICKET_SECRET", default="")  # whsec_…: signs them
FLEET_REQUESTS_PER_SECOND = env.float("FLEET_REQUESTS_PER_SECOND", default=200.0)  # of one user's tokens; 0 = no bound
FLEET_IDCS = env.list("FLEET_IDCS", default=[])  # idcs this worker serves; empty = all
FLEET_SWEEP_SECONDS = env.float("FLEET_SWEEP_SECONDS", default=1.0)
FLEET_BATCH = env.int(
    "FLEET_BATCH", default=500
)  # machines of one pass: fewer take less memory, more less of the database
FLEET_OBSERVE_SECONDS = env.float("FLEET_OBSERVE_SECONDS", default=600.0)  # each machine is looked at again this often
FLEET_LEASE_SECONDS = env.float("FLEET_LEASE_SECONDS", default=60.0)
FLEET_DEAF_SECONDS = env.float(
    "FLEET_DEAF_SECONDS", default=60.0
)  # a worker that hears nothing so long ends; 0 = never
FLEET_TASK_MEMORY_MIB = env.int("FLEET_TASK_MEMORY_MIB", default=0)  # that a worker's child may take; 0 = no bound
FLEET_UNDO_HOURS = env.int("FLEET_UNDO_HOURS", default=24)
FLEET_SOAK_SECONDS = env.float("FLEET_SOAK_SECONDS", default=60.0)
FLEET_CLUSTERS_DIR = env.str(
    "FLEET_CLUSTERS_DIR", default=str(BASE_DIR / ".fleet" / "clusters")
)  # data of Local control planes, snapshots
FLEET_TOOLS_IMAGE = env.str("FLEET_TOOLS_IMAGE", default="docker.io/library/busybox:1.37.0")  # sh, head, mv and rm
FLEET_BINARIES = env.str("FLEET_BINARIES", default="")  # folder in which Local control planes find their programs

CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = False  # a task is a hint: losing one loses no work
# A child whose heap has come near its bound is replaced after its task: what it keeps would be missing in the next ones.
CELERY_WORKER_MAX_MEMORY_PER_CHILD = FLEET_TASK_MEMORY_MIB * 1024 * 3 // 4 or None
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 5, "visibility_timeout": 60}
CELERY_BEAT_SCHEDULER = "redbeat.RedBeatScheduler"
CELERY_REDBEAT_REDIS_URL = REDIS_URL
CELERY_REDBEAT_LOCK_TIMEOUT = 15
CELERY_BEAT_MAX_LOOP_INTERVAL = 1

# Warnings and errors, with their traces, to standard error: the supervisor (or systemd) keeps them. Never to a client.
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": env.str("FLEET_LOG_LEVEL", default="WARNING")},
    "loggers": {"django": {"handlers": [], "propagate": True}},
}
