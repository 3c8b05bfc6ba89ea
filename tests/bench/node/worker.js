// What a user would write: consume, POST, acknowledge. Up to 64 connections, the others wait in undici.
//
//   node worker.js AMQP_URL QUEUE TARGET [IN_FLIGHT]
'use strict';

const amqp = require('amqplib');
const { Agent, request } = require('undici');

const [url, queue, target, inFlight = '64'] = process.argv.slice(2);
const dispatcher = new Agent({ connections: Number(inFlight), pipelining: 1 });

async function main() {
  const connection = await amqp.connect(url);
  const channel = await connection.createChannel();
  await channel.prefetch(500);
  const failed = (error) => {
    console.error(error);
    process.exit(1);
  };
  connection.on('error', failed);
  await channel.consume(queue, async (message) => {
    try {
      const { statusCode, body } = await request(target, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'callback-event-ids': message.properties.messageId },
        body: message.content,
        dispatcher,
      });
      await body.dump();
      if (statusCode >= 300) throw new Error(`answered ${statusCode}`);
      channel.ack(message);
    } catch (error) {
      failed(error);
    }
  });
}

main();
