import com.hivemq.embedded.EmbeddedExtension;
import com.hivemq.embedded.EmbeddedHiveMQ;
import com.hivemq.extension.sdk.api.ExtensionMain;
import com.hivemq.extension.sdk.api.auth.SimpleAuthenticator;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartOutput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopOutput;
import com.hivemq.extension.sdk.api.services.Services;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Optional;

/** HiveMQ Community Edition with one user: Broker FOLDER USER PASSWORD, where FOLDER has its config.xml. */
public class Broker implements ExtensionMain {
    private final String user;
    private final ByteBuffer password;

    Broker(String user, String password) {
        this.user = user;
        this.password = ByteBuffer.wrap(password.getBytes(StandardCharsets.UTF_8));
    }

    public static void main(String[] args) throws Exception {
        Path folder = Path.of(args[0]);
        var login = EmbeddedExtension.builder().withId("login").withName("Login").withVersion("1")
                .withExtensionMain(new Broker(args[1], args[2])).build();
        var broker = EmbeddedHiveMQ.builder().withConfigurationFolder(folder).withDataFolder(folder.resolve("data"))
                .withExtensionsFolder(folder.resolve("extensions")).withEmbeddedExtension(login).build();
        broker.start().join();
        Thread.currentThread().join();
    }

    @Override
    public void extensionStart(ExtensionStartInput input, ExtensionStartOutput output) {
        SimpleAuthenticator authenticator = (asked, answer) -> {
            var connect = asked.getConnectPacket();
            if (connect.getUserName().equals(Optional.of(user))
                    && connect.getPassword().equals(Optional.of(password))) {
                answer.authenticateSuccessfully();
            } else {
                answer.failAuthentication();
            }
        };
        Services.securityRegistry().setAuthenticatorProvider(client -> authenticator);
    }

    @Override
    public void extensionStop(ExtensionStopInput input, ExtensionStopOutput output) {}
}
