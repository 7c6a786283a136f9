// Publishes one event from Java, and says whether the broker has it. Needs com.rabbitmq:amqp-client 5 on the class path
// (Debian: librabbitmq-client-java) and an SLF4J API.
//
//   REALTIME_AMQP_URL=amqp://… java -cp amqp-client.jar:slf4j-api.jar Publish.java DIAGNOSIS_ID [EVENT_ID]
//
// Run again under the same EVENT_ID after an error: clients see the event once.
import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import java.nio.charset.StandardCharsets;
import java.util.Date;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicBoolean;

public class Publish {
    public static void main(String[] args) {
        if (args.length == 0 || !args[0].matches("[1-9][0-9]*")) {
            System.err.println("the first argument is a diagnosis id");
            System.exit(2);
        }
        String diagnosis = args[0];
        String eventId = args.length > 1 ? args[1] : UUID.randomUUID().toString();
        String event = "{\"diagnosis_id\": " + Long.parseLong(diagnosis)
            + ", \"feedback_id\": 456, \"rating\": 4, \"effectiveness\": 0.75}";
        ConnectionFactory factory = new ConnectionFactory();
        try {
            factory.setUri(System.getenv("REALTIME_AMQP_URL"));
            try (Connection connection = factory.newConnection(); Channel channel = connection.createChannel()) {
                AtomicBoolean returned = new AtomicBoolean();
                channel.addReturnListener((code, text, exchange, key, properties, body) -> returned.set(true));
                channel.confirmSelect();
                Date now = new Date();
                AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder()
                    .messageId(eventId)
                    .contentType("application/json")
                    .deliveryMode(2)
                    .timestamp(now)
                    .headers(Map.of("timestamp_in_ms", now.getTime()))
                    .build();
                boolean mandatory = true; // returned when no queue takes it: the service never ran on this broker
                channel.basicPublish("diagnosis.feedback", "diagnosis." + diagnosis, mandatory, properties,
                    event.getBytes(StandardCharsets.UTF_8));
                channel.waitForConfirmsOrDie(10_000); // throws when the broker refuses
                if (returned.get()) {
                    throw new IllegalStateException("no queue took the event");
                }
            }
            System.out.println(eventId);
        } catch (Exception error) {
            System.err.println("not published, try again as " + eventId + ": " + error);
            System.exit(1);
        }
    }
}
