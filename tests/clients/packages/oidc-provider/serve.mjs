// An OpenID provider nobody here wrote, with a public and a confidential client: `serve.mjs ACCESS_TOKEN_SECONDS`.
// Prints its issuer once it accepts, then one line for each grant and revocation.
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
const provider = new Provider(issuer, {
  clients: [
    { client_id: 'public', token_endpoint_auth_method: 'none', ...deviceFlow },
    { client_id: 'basic:%', client_secret: 'a secret/with+odd%signs', token_endpoint_auth_method: 'client_secret_basic', ...deviceFlow },
    { client_id: 'post', client_secret: 'posted-secret', token_endpoint_auth_method: 'client_secret_post', ...deviceFlow },
  ],
  features: { deviceFlow: { enabled: true }, revocation: { enabled: true }, devInteractions: { enabled: true } },
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
