// Lends this machine to a Resource Pool until Ctrl-C: npm install ws && node lend.js [URL]
const os = require('node:os');
const WebSocket = require('ws');

const MB = 2 ** 20;
const deviceId = `${os.hostname()}-${process.pid}`;
const ws = new WebSocket(process.argv[2] ?? 'ws://localhost:3000/ws');
const say = (message) => ws.send(JSON.stringify(message));

function resources() {
  const cpuCores = os.cpus().length;
  const cpuUsage = Math.min(100, (100 * os.loadavg()[0]) / cpuCores);
  const memoryTotal = Math.floor(os.totalmem() / MB);
  const memoryAvailable = Math.floor(os.freemem() / MB);
  return {
    cpuUsage, cpuAvailable: 100 - cpuUsage, cpuCores,
    memoryUsage: memoryTotal - memoryAvailable, memoryAvailable, memoryTotal,
    storageUsage: 0, storageAvailable: 0, storageTotal: 0,
    hasGPU: false, gpuName: null, gpuUsage: null,
  };
}

ws.on('open', () => {
  say({ type: 'register', deviceId, deviceName: os.hostname(), platform: process.platform });
  const update = () => say({ type: 'resource_update', deviceId, resources: resources() });
  update();
  setInterval(update, 2000);
  setInterval(() => say({ type: 'heartbeat', deviceId }), 5000);
});

ws.on('message', (data) => {
  const message = JSON.parse(data);
  switch (message.type) {
    case 'devices':
      console.log('in the pool with', message.devices.length - 1, 'others, as', deviceId);
      break;
    case 'device_joined':
      console.log('joined:', message.device.name);
      break;
    case 'device_left':
      console.log('left:', message.deviceId);
      break;
  }
});

ws.on('close', (code, reason) => {
  console.log('closed:', code, String(reason));
  process.exit(code === 1000 ? 0 : 1);
});
ws.on('error', (error) => console.error(error.message)); // a close follows
process.on('SIGINT', () => ws.close(1000));
