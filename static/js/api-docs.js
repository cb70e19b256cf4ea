// The browsable OpenAPI page: Swagger UI over Fleet's own document. A session's CSRF token goes along with writes.
const main = document.getElementById("api");
const cookie = (name) => document.cookie.split("; ").find((c) => c.startsWith(`${name}=`))?.split("=")[1] ?? "";

window.SwaggerUIBundle({
  url: main.dataset.document,
  domNode: main,
  deepLinking: true,
  docExpansion: "none",
  filter: true,
  validatorUrl: null,
  requestInterceptor: (request) => {
    request.headers["X-CSRFToken"] = cookie("csrftoken");
    return request;
  },
});
