// Drive mtcute through a proxy.
//
//   node ping.mjs SERVER PORT SECRET PUBLIC_KEY [COUNT]
//
// Connects, agrees on a key with the data centre, asks it for its configuration several times, and waits between, so that
// whatever the proxy puts between the data centre's packets has been read. Prints one JSON object and exits with 0 if all
// of it was answered.
//
// Needs: what package-lock.json beside this names, found by way of NODE_MODULES; nothing of it has to be compiled, for
// what is remembered stays in memory.

import { readFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

const modules = process.env.NODE_MODULES;
const load = (path) => import(pathToFileURL(join(modules, '@mtcute/node', path)));
const { BaseTelegramClient, MemoryStorage, MtProxyTcpTransport } = await load('index.js');
const { NodeCryptoProvider, addPublicKey } = await load('utils.js');

const LIMIT_MS = 30_000;
const [server, port, secret, publicKey, count = '5'] = process.argv.slice(2);

async function run() {
    const crypto = new NodeCryptoProvider();
    await crypto.initialize?.();
    addPublicKey(crypto, await readFile(publicKey, 'utf8'));
    const client = new BaseTelegramClient({
        apiId: 94575,
        apiHash: 'a3406de8d171bb422bb6ddf3bbd800e2',
        crypto,
        storage: new MemoryStorage(),
        transport: new MtProxyTcpTransport({ host: server, port: Number(port), secret }),
        disableUpdates: true,
    });
    const began = performance.now();
    let dc;
    for (let asked = 0; asked < Number(count); asked++) {
        dc = (await client.call({ _: 'help.getConfig' })).thisDc;
        await pause(300);
    }
    return { ok: true, answers: Number(count), dc, seconds: Math.round(performance.now() - began) / 1000 };
}

const late = pause(LIMIT_MS, { ok: false, error: `no answer within ${LIMIT_MS / 1000} s` });
const report = await Promise.race([run(), late]).catch((error) => ({ ok: false, error: `${error}` }));
console.log(JSON.stringify(report));
process.exit(report.ok ? 0 : 1);
