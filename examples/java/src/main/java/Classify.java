import com.google.protobuf.ByteString;
import digits.v1.DigitClassifierServiceGrpc;
import digits.v1.Digits.ClassifyRequest;
import digits.v1.Digits.EncodedImages;
import digits.v1.Digits.GetModelRequest;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** Classifies image files: mvn --quiet --file examples/java compile exec:java -Dexec.args=ADDRESS */
public class Classify {
  // gRPC repeats a call that found no server, or one that was stopping.
  private static final Map<String, Object> RETRIES =
      Map.of(
          "methodConfig",
          List.of(
              Map.of(
                  "name",
                  List.of(Map.of("service", "digits.v1.DigitClassifierService")),
                  "retryPolicy",
                  Map.of(
                      "maxAttempts", 5.0,
                      "initialBackoff", "0.1s",
                      "maxBackoff", "2s",
                      "backoffMultiplier", 3.0,
                      "retryableStatusCodes", List.of("UNAVAILABLE", "CANCELLED")))));

  public static void main(String[] args) throws IOException {
    var address = args.length > 0 ? args[0] : "127.0.0.1:50051";
    var paths = new ArrayList<Path>();
    try (var found = Files.newDirectoryStream(Path.of("serving/samples"), "*.png")) {
      found.forEach(paths::add);
    }
    paths.sort(null);
    var images = EncodedImages.newBuilder();
    for (var path : paths) {
      images.addImages(ByteString.copyFrom(Files.readAllBytes(path)));
    }
    var request = ClassifyRequest.newBuilder().setEncodedImages(images).build();

    var channel =
        Grpc.newChannelBuilder(address, InsecureChannelCredentials.create())
            .defaultServiceConfig(RETRIES)
            .enableRetry()
            .build();
    try {
      var client =
          DigitClassifierServiceGrpc.newBlockingStub(channel).withDeadlineAfter(10, TimeUnit.SECONDS);
      var model = client.getModel(GetModelRequest.getDefaultInstance());
      var answer = client.classify(request);
      for (int i = 0; i < paths.size(); i++) {
        var name = model.getLabels(answer.getLabels(i));
        System.out.printf("%s  %s  %.2f%%%n", paths.get(i), name, 100 * answer.getConfidences(i));
      }
    } catch (StatusRuntimeException failed) {
      System.err.printf("%s: %s: %s%n", address, failed.getStatus().getCode(), reason(failed));
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }

  /** The server's words, or what kept the call from reaching it. */
  private static String reason(StatusRuntimeException failed) {
    Throwable cause = failed.getCause();
    return cause == null ? failed.getStatus().getDescription() : cause.getMessage();
  }
}
