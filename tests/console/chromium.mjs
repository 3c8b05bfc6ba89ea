// Headless Chromium for the tests of the console. Whatever a page says to its console, asks elsewhere or does not get is a fault.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";

const { chromium } = createRequire(`${process.env.CALLBACKD_TEST_NODE_MODULES}/`)("playwright-core");

// A browser that looks at what is served below `base` and puts pictures into the folder `shots`.
export const launch = async (base, shots) => {
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
  const clean = (what) => assert.deepEqual(faults, [], what);
  const forgive = () => { faults.length = 0; };
  return { open, shot, clean, forgive, close: () => browser.close() };
};
