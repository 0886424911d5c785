// An OpenID provider nobody here wrote, with a public and a confidential client: `serve.mjs ACCESS_TOKEN_SECONDS`.
// Clients `ci-ALG` get tokens of jobs, signed by that algorithm, for the resource that they name.
// Prints its issuer once it accepts, then one line for each grant and revocation.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const deviceFlow = {
  grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
  redirect_uris: [],
  response_types: [],
};
const signing = (kid, ...kind) => ({ ...generateKeyPairSync(...kind).privateKey.export({ format: 'jwk' }), kid, use: 'sig' });
const job = { grant_types: ['client_credentials'], redirect_uris: [], response_types: [], client_secret: 'job-secret' };
const provider = new Provider(issuer, {
  jwks: {
    keys: [
      signing('of RSA', 'rsa', { modulusLength: 2048 }),
      signing('of P-256', 'ec', { namedCurve: 'P-256' }),
      signing('of Ed25519', 'ed25519'),
    ],
  },
  extraTokenClaims: (ctx, token) => token.clientId.startsWith('ci-') ? { repository: 'corp/api', repository_owner: 'corp' } : undefined,
  clients: [
    ...['RS256', 'ES256', 'EdDSA', 'Ed25519', 'PS256'].map((alg) => ({ client_id: `ci-${alg}`, ...job })),
    { client_id: 'public', token_endpoint_auth_method: 'none', ...deviceFlow },
    { client_id: 'basic:%', client_secret: 'a secret/with+odd%signs', token_endpoint_auth_method: 'client_secret_basic', ...deviceFlow },
    { client_id: 'post', client_secret: 'posted-secret', token_endpoint_auth_method: 'client_secret_post', ...deviceFlow },
  ],
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: (ctx, resource, client) => ({
        scope: '',
        audience: resource,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: client.clientId.slice(3) } },
      }),
    },
    revocation: { enabled: true },
  },
  ttl: { AccessToken: Number(process.argv[2]) },
  rotateRefreshToken: true,
  clientBasedCORS: () => false,
});
const say = (text) => process.stdout.write(`${text}\n`);
provider.on('grant.success', (ctx) => say(`granted ${ctx.oidc.params.grant_type} to ${ctx.oidc.client.clientId}`));
provider.on('grant.error', (ctx, error) => error.error === 'authorization_pending' || say(`refused ${error.error}`));
provider.on('grant.revoked', () => say('revoked a grant'));
provider.on('server_error', (ctx, error) => say(`broke: ${error.stack}`));
server.on('request', provider.callback());
say(issuer);
