import org.apache.activemq.artemis.core.config.impl.SecurityConfiguration;
import org.apache.activemq.artemis.core.server.embedded.EmbeddedActiveMQ;
import org.apache.activemq.artemis.spi.core.security.ActiveMQJAASSecurityManager;
import org.apache.activemq.artemis.spi.core.security.jaas.InVMLoginModule;

/** One node of ActiveMQ Artemis with one user: Broker CONFIGURATION USER PASSWORD. */
public class Broker {
    public static void main(String[] args) throws Exception {
        var users = new SecurityConfiguration();
        users.addUser(args[1], args[2]);
        users.addRole(args[1], "all");
        var broker = new EmbeddedActiveMQ();
        broker.setConfigResourcePath("file:" + args[0]);
        broker.setSecurityManager(new ActiveMQJAASSecurityManager(InVMLoginModule.class.getName(), users));
        broker.start();
    }
}
