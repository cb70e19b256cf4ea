// The browsable OpenAPI page: Swagger UI over Fleet's own documents, shown as one. A session's CSRF token goes along with writes.
const main = document.getElementById("api");
const cookie = (name) => document.cookie.split("; ").find((c) => c.startsWith(`${name}=`))?.split("=")[1] ?? "";

async function documents() {
  const [first, ...others] = await Promise.all(main.dataset.documents.split(" ").map(async (url) => (await fetch(url)).json()));
  for (const other of others) {
    Object.assign(first.paths, other.paths);
    Object.assign(first.components.schemas, other.components.schemas);
  }
  return first;
}

documents().then((spec) => window.SwaggerUIBundle({
  spec,
  domNode: main,
  deepLinking: true,
  docExpansion: "none",
  filter: true,
  validatorUrl: null,
  requestInterceptor: (request) => {
    request.headers["X-CSRFToken"] = cookie("csrftoken");
    return request;
  },
}));
