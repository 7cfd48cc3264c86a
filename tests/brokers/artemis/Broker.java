import java.util.Set;
import org.apache.activemq.artemis.core.config.impl.SecurityConfiguration;
import org.apache.activemq.artemis.core.security.Role;
import org.apache.activemq.artemis.core.server.embedded.EmbeddedActiveMQ;
import org.apache.activemq.artemis.spi.core.security.ActiveMQJAASSecurityManager;
import org.apache.activemq.artemis.spi.core.security.jaas.InVMLoginModule;

/** One node of Apache Artemis with one user, who has all roles: Broker CONFIGURATION USER PASSWORD. */
public class Broker {
    public static void main(String[] args) throws Exception {
        var users = new SecurityConfiguration();
        users.addUser(args[1], args[2]);
        for (var role : Set.of("producer", "consumer", "operator", "tester")) {
            users.addRole(args[1], role);
        }
        var broker = new EmbeddedActiveMQ();
        broker.setConfigResourcePath("file:" + args[0]);
        broker.setSecurityManager(new ActiveMQJAASSecurityManager(InVMLoginModule.class.getName(), users));
        broker.start();
        // The topics of the tests that are no topics of the stack.
        var everything = new Role("tester", true, true, true, true, true, true, false, true, true, true, false, false);
        broker.getActiveMQServer().getSecurityRepository().addMatch("#", Set.of(everything));
    }
}
