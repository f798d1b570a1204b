// Node before 22.21 knows no proxies: a program opens its tunnel itself, as proxy agents do.
import http from 'node:http';
import tls from 'node:tls';

const target = process.argv[2];
const proxy = new URL(process.env.HTTPS_PROXY);
const credentials = Buffer.from(`${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`).toString('base64');
http.request({
  host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: target,
  headers: { 'Proxy-Authorization': `Basic ${credentials}` },
}).on('connect', (answer, socket) => {
  if (answer.statusCode !== 200) throw new Error(answer.statusMessage);
  const servername = target.split(':')[0];
  const secure = tls.connect({ socket, servername });
  http.get({ path: '/user', headers: { Host: target }, createConnection: () => secure }, (answer) => {
    answer.pipe(process.stdout);
    answer.on('end', () => socket.destroy());
  });
}).end();
