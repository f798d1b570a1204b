// An oidc-provider for tests. The first line on stdin is its configuration as JSON; stdout says when it listens, and
// then every line is an event. It ends with stdin.
import http from 'node:http';
import https from 'node:https';
import readline from 'node:readline';
import { X509Certificate } from 'node:crypto';
import Provider from 'oidc-provider';

const lines = readline.createInterface({ input: process.stdin });
lines.on('close', () => process.exit(0));
const config = JSON.parse(await new Promise((resolve) => lines.once('line', resolve)));
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

let handler = (req, res) => res.end();
const answer = (req, res) => handler(req, res);
const server = config.cert
  ? https.createServer({ cert: config.cert, key: config.key, requestCert: true, rejectUnauthorized: false }, answer)
  : http.createServer(answer);
await new Promise((resolve) => server.listen(config.port ?? 0, '127.0.0.1', resolve));
const issuer = `${config.cert ? 'https' : 'http'}://127.0.0.1:${server.address().port}`;

const clientCertificate = (ctx) => {
  const peer = ctx.socket.getPeerX509Certificate?.();
  return peer && new X509Certificate(peer.raw);
};

const provider = new Provider(issuer, {
  clients: config.clients,
  ttl: { AccessToken: 600, ClientCredentials: 600, DeviceCode: 600, RefreshToken: 86400, ...config.ttl },
  scopes: ['openid', 'offline_access', ...(config.scopes ?? [])],
  rotateRefreshToken: () => config.rotate ?? true,
  issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
  pkce: { required: () => true },
  clientAuthMethods: ['none', 'client_secret_basic', 'client_secret_post', 'private_key_jwt',
    ...(config.cert ? ['self_signed_tls_client_auth', 'tls_client_auth'] : [])],
  assertJwtClientAuthClaimsAndHeader: (ctx, claims, header, client) => say({
    event: 'assertion', client: client.clientId, claims, header,
  }),
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true, ...config.deviceFlow },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    mTLS: {
      enabled: Boolean(config.cert),
      tlsClientAuth: true,
      selfSignedTlsClientAuth: true,
      certificateBoundAccessTokens: true,
      getCertificate: clientCertificate,
      certificateAuthorized: (ctx) => ctx.socket.authorized || Boolean(config.trustClients),
      certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_subject_dn'
        && clientCertificate(ctx).subject === expected,
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: (ctx, resource) => ({ scope: 'read write', audience: resource, accessTokenFormat: 'opaque' }),
      useGrantedResource: () => true,
    },
  },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
});
handler = provider.callback();
for (const event of ['grant.success', 'grant.error', 'grant.revoked', 'refresh_token.consumed', 'server_error']) {
  provider.on(event, (ctx, err) => say({
    event,
    grant: ctx?.oidc?.params?.grant_type,
    client: ctx?.oidc?.client?.clientId,
    error: err instanceof Error ? `${err.message}: ${err.error_description ?? err.stack}` : undefined,
  }));
}
say({ issuer });
