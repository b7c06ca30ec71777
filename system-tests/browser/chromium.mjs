// Runs Chromium for browser.py: chromium.mjs PLAYWRIGHT CHROMIUM PROFILE. A command and its result are a line of JSON each. The end of stdin
// ends it.
import { createInterface } from 'node:readline';

const PATIENCE = 30_000; // milliseconds for a command

const [playwright, executablePath, profile] = process.argv.slice(2);
const { chromium } = (await import(playwright)).default;
const quiet = ['background-networking', 'component-update', 'sync', 'gpu', 'quic'].map(name => `--disable-${name}`);
const browser = await chromium.launchPersistentContext(profile, {
  executablePath,
  args: ['--no-first-run', '--no-proxy-server', ...quiet],
  ignoreHTTPSErrors: true,
});
await browser.addInitScript(inEachPage);
const pages = [];

// What the scripts of browser.py call.
function inEachPage() {
  const subscribers = {};

  window.watch = url => {
    const source = new EventSource(url);
    const seen = [];
    source.addEventListener('status', event => seen.push([Number(event.lastEventId), JSON.parse(event.data).state]));
    subscribers[url] = { source, seen };
  };

  window.watched = url => ({ readyState: subscribers[url].source.readyState, seen: subscribers[url].seen });

  window.ask = async (url, headers = {}) => {
    const response = await fetch(url, { headers });
    const text = await response.text();
    return {
      status: response.status,
      etag: response.headers.get('etag'),
      applied: response.headers.get('preference-applied'),
      state: text && JSON.parse(text).state,
    };
  };

  window.embed = (tag, attributes) =>
    new Promise(resolve => {
      const element = Object.assign(document.createElement(tag), attributes);
      element.onload = () => resolve('loaded');
      element.onerror = () => resolve('failed');
      document.documentElement.append(element);
    });
}

const commands = {
  async open(url) {
    const page = await browser.newPage();
    const responses = [];
    page.on('response', response => responses.push([response.url(), response.status()]));
    await page.goto(url);
    return pages.push({ page, responses }) - 1;
  },
  run: async (number, script) => pages[number].page.evaluate(script),
  responses: async number => pages[number].responses,
  close: async number => pages[number].page.close(),
};

const late = () => new Promise((_, reject) => setTimeout(reject, PATIENCE, 'not within 30 s').unref());

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...inputs] = JSON.parse(line);
  const command = Promise.race([commands[name](...inputs), late()]);
  console.log(JSON.stringify(await command.then(value => ({ value }), error => ({ error: String(error) }))));
}
await browser.close();
