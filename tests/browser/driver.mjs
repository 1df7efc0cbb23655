// Drives one headless Chromium for a test. Reads one command per line from stdin, in JSON, and answers each with one line.
//
// Commands: {"do": "open", "url"}, {"do": "view", "width", "height", "dark", "script", "motion"} (a new page of this kind),
// {"do": "resize", "width", "height"} (the same page), {"do": "eval", "script"} (an expression in the page; the answer is its
// value), {"do": "click", "at"}, {"do": "press", "key"}, {"do": "shoot", "to", "whole"}, {"do": "errors"} (what the page logged
// as an error, and every request that left its origin).
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", headless: true, args });
let context = null, page = null, errors = [];

async function view({ width = 1280, height = 900, dark = false, script = true, motion = false }) {
  if (context) await context.close();
  context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light", javaScriptEnabled: script, reducedMotion: motion ? "no-preference" : "reduce" });
  page = await context.newPage();
  errors = [];
  page.on("pageerror", (error) => errors.push(`error: ${error.message}`));
  page.on("console", (message) => { if (message.type() === "error" && !/ERR_CONNECTION|ERR_EMPTY|ERR_INCOMPLETE|ERR_SOCKET/.test(message.text())) errors.push(`console: ${message.text()} (${message.location().url})`); });
  page.on("dialog", (dialog) => { errors.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("request", (request) => { const to = new URL(request.url()); if (!["127.0.0.1", "localhost"].includes(to.hostname)) errors.push(`left its origin: ${request.url()}`); });
}

const commands = {
  view,
  resize: async ({ width, height }) => { await page.setViewportSize({ width, height }); },
  open: async ({ url }) => { if (!page) await view({}); await page.goto(url, { waitUntil: "load", timeout: 30000 }); },
  eval: async ({ script }) => await page.evaluate(script),
  click: async ({ at }) => { await page.click(at, { timeout: 10000 }); },
  press: async ({ key }) => { await page.keyboard.press(key); },
  shoot: async ({ to, whole = true }) => { await page.screenshot({ path: to, fullPage: whole }); },
  errors: async () => errors,
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const command = JSON.parse(line);
    answer = { value: (await commands[command.do](command)) ?? null };
  } catch (error) {
    answer = { error: String(error.message || error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await browser.close();
