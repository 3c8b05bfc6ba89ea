// Looks at the console with a real browser, as the test in tests/console.rs tells it to. Whatever a page says to its console, asks
// elsewhere or does not get fails the test.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";

const { chromium } = createRequire(`${process.env.CALLBACKD_TEST_NODE_MODULES}/`)("playwright-core");
const [base, shots, token] = process.argv.slice(2);
mkdirSync(shots, { recursive: true });

const browser = await chromium.launch({
  executablePath: process.env.CALLBACKD_TEST_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const faults = [];

const open = async (options = {}) => {
  const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, ...options });
  const page = await context.newPage();
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) faults.push(`${page.url()}: ${message.text()}`); });
  page.on("pageerror", (error) => faults.push(`${page.url()}: ${error}`));
  page.on("request", (request) => { if (new URL(request.url()).origin !== new URL(base).origin) faults.push(`asks elsewhere: ${request.url()}`); });
  page.on("response", (response) => { if (response.status() >= 400) faults.push(`${response.status()} ${response.url()}`); });
  return page;
};
const shot = (page, name) => page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });
const clean = (what) => { assert.deepEqual(faults, [], what); };

const page = await open();
await page.goto(base + "/");
assert.match(page.url(), /\/sign-in$/);
await page.fill("[name=token]", "wrong");
await page.click("main button");
assert.match(await page.textContent("[role=alert]"), /none of/);
faults.length = 0; // The 401 is what was asked for.
await shot(page, "sign-in");
await page.fill("[name=token]", token);
await page.click("main button");
await page.waitForURL(base + "/");
for (const [path, name] of [["/", "overview"], ["/endpoints", "endpoints"], ["/endpoints/acme/main", "endpoint"], ["/events?q=customer-7", "event"], ["/live", "live"]]) {
  await page.goto(base + path);
  await shot(page, name);
  clean(path);
}
await browser.close();
