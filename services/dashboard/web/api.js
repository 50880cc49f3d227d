// Calls of juicefs.csi.dashboard.v1 by the Connect protocol: a POST of JSON.
const service = "/juicefs.csi.dashboard.v1.DashboardService/";
const pageSize = 500;

// CallError carries the Connect code: "unauthenticated", "permission_denied" ...
export class CallError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

// The token lives as long as the tab.
export const session = {
  get token() { return sessionStorage.getItem("token") ?? ""; },
  set token(value) { value ? sessionStorage.setItem("token", value) : sessionStorage.removeItem("token"); },
};

export async function call(method, request, signal) {
  const headers = { "Content-Type": "application/json", "Connect-Protocol-Version": "1" };
  if (session.token) headers.Authorization = `Bearer ${session.token}`;
  const response = await fetch(service + method, { method: "POST", headers, body: JSON.stringify(request), signal });
  if (response.ok) return response.json();
  const failure = await response.json().catch(() => ({}));
  throw new CallError(failure.code ?? "unknown", failure.message ?? `HTTP ${response.status}`);
}

// listAll yields the pods of every page as they come.
export async function* listAll(method, request, signal) {
  let pageToken = "";
  do {
    const page = await call(method, { ...request, pageSize, pageToken }, signal);
    yield { pods: page.pods ?? [], total: page.total ?? 0 };
    pageToken = page.nextPageToken ?? "";
  } while (pageToken);
}
