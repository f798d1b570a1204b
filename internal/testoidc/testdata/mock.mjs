// An oauth2-mock-server for tests. The first line on stdin is its configuration as JSON; stdout says when it listens.
// Each further line on stdin is what the token endpoint answers next: {status, body}. It ends with stdin.
import readline from 'node:readline';
import { OAuth2Server } from 'oauth2-mock-server';

const lines = readline.createInterface({ input: process.stdin });
lines.on('close', () => process.exit(0));
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const first = await new Promise((resolve) => lines.once('line', resolve));
const { port = 0 } = JSON.parse(first);

const server = new OAuth2Server();
await server.issuer.keys.generate('RS256');
const answers = [];
server.service.on('beforeResponse', (response, req) => {
  const next = answers.shift();
  if (next?.status) response.statusCode = next.status;
  if (next?.set) Object.assign(response.body, next.set);
  for (const name of next?.unset ?? []) delete response.body[name];
  if (next && 'body' in next) response.body = next.body;
  say({ event: 'token', form: Object.keys(req.body ?? {}).sort(), answer: response.body });
});
lines.on('line', (line) => {
  answers.push(JSON.parse(line));
  say({ event: 'next' });
});
await server.start(port, '127.0.0.1');
say({ issuer: server.issuer.url });
