// Sockets in Java: java Echo streams | channels | closing
// Each scenario is server and clients at once, and checks every byte and every exception.

import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketException;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.nio.channels.AsynchronousCloseException;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.util.Arrays;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;

public class Echo {
    static final int CONNECTIONS = 8, SMALL = 60, LARGE = 3_000_000;

    static void check(boolean holds, String what) {
        if (!holds)
            throw new AssertionError(what);
    }

    static <T> FutureTask<T> start(Callable<T> work) {
        FutureTask<T> task = new FutureTask<>(work);
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        thread.start();
        return task;
    }

    static void finish(FutureTask<?> task) throws Exception {
        task.get(30, TimeUnit.SECONDS);
    }

    // Exchanges small messages, then a stream with a thread for each direction, then the end of each half.
    static Void talk(int port, int number) throws Exception {
        Random chance = new Random(number);
        try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), port)) {
            if (number % 2 == 0)
                socket.setSoTimeout(20_000);    // Java then waits in poll() before it reads
            InputStream in = socket.getInputStream();
            OutputStream out = socket.getOutputStream();
            for (int i = 0; i < SMALL; i++) {
                byte[] message = new byte[1 + chance.nextInt(2000)];
                chance.nextBytes(message);
                out.write(message);
                check(Arrays.equals(in.readNBytes(message.length), message), "connection " + number + " message " + i);
            }
            byte[] stream = new byte[LARGE + number];
            chance.nextBytes(stream);
            FutureTask<byte[]> reader = start(in::readAllBytes);
            for (int at = 0; at < stream.length;) {
                int size = Math.min(1 + chance.nextInt(200_000), stream.length - at);
                out.write(stream, at, size);
                at += size;
            }
            socket.shutdownOutput();
            finish(reader);
            check(Arrays.equals(reader.get(), stream), "connection " + number + ": the stream came back changed");
        }
        return null;
    }

    static void talkToAll(int port) throws Exception {
        FutureTask<?>[] clients = new FutureTask<?>[CONNECTIONS];
        for (int i = 0; i < CONNECTIONS; i++) {
            int number = i;
            clients[i] = start(() -> talk(port, number));
        }
        for (FutureTask<?> client : clients)
            finish(client);
    }

    static void streams() throws Exception {
        try (ServerSocket server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
            for (int i = 0; i < CONNECTIONS; i++)
                start(() -> {
                    try (Socket socket = server.accept()) {
                        socket.getInputStream().transferTo(socket.getOutputStream());
                    }
                    return null;
                });
            talkToAll(server.getLocalPort());
        }
    }

    // One thread, a selector, an echo with a buffer for each connection.
    static void channels() throws Exception {
        try (ServerSocketChannel server = ServerSocketChannel.open(); Selector selector = Selector.open()) {
            server.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0)).configureBlocking(false);
            server.register(selector, SelectionKey.OP_ACCEPT);
            FutureTask<Void> loop = start(() -> {
                for (int ended = 0; ended < CONNECTIONS;) {
                    selector.select();
                    for (SelectionKey key : selector.selectedKeys())
                        ended += serve(server, selector, key) ? 1 : 0;
                    selector.selectedKeys().clear();
                }
                return null;
            });
            talkToAll(((InetSocketAddress) server.getLocalAddress()).getPort());
            finish(loop);
        }
    }

    static final class Conversation {
        final ByteBuffer buffer = ByteBuffer.allocateDirect(100_000);
        boolean ended;      // the client sends no more
    }

    // Returns whether the connection of this key has ended.
    static boolean serve(ServerSocketChannel server, Selector selector, SelectionKey key) throws IOException {
        if (key.isAcceptable()) {
            SocketChannel accepted = server.accept();
            accepted.configureBlocking(false);
            accepted.register(selector, SelectionKey.OP_READ, new Conversation());
            return false;
        }
        SocketChannel channel = (SocketChannel) key.channel();
        Conversation conversation = (Conversation) key.attachment();
        ByteBuffer buffer = conversation.buffer;
        if (key.isReadable() && channel.read(buffer) < 0)
            conversation.ended = true;
        buffer.flip();
        channel.write(buffer);
        buffer.compact();
        boolean over = conversation.ended && buffer.position() == 0;
        if (over)
            channel.close();
        else
            key.interestOps((!conversation.ended && buffer.hasRemaining() ? SelectionKey.OP_READ : 0)
                            | (buffer.position() > 0 ? SelectionKey.OP_WRITE : 0));
        return over;
    }

    static void expectClosed(FutureTask<?> blocked, Class<?> expected) throws Exception {
        try {
            blocked.get(10, TimeUnit.SECONDS);
            throw new AssertionError("a blocked call returned from a closed socket");
        } catch (ExecutionException error) {
            check(expected.isInstance(error.getCause()), "expected " + expected + ", got " + error.getCause());
        }
    }

    static void warm(Socket one, Socket other) throws IOException {
        byte[] message = {1, 2, 3};
        for (int i = 0; i < SMALL; i++) {
            one.getOutputStream().write(message);
            check(Arrays.equals(other.getInputStream().readNBytes(3), message), "warm");
            other.getOutputStream().write(message);
            check(Arrays.equals(one.getInputStream().readNBytes(3), message), "warm");
        }
    }

    // Closing wakes the thread that is blocked on the socket, with an exception, and ends the stream at the other end.
    static void closing() throws Exception {
        try (ServerSocket server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
            for (int timeout : new int[] {0, 20_000}) {
                Socket one = new Socket(InetAddress.getLoopbackAddress(), server.getLocalPort());
                Socket other = server.accept();
                warm(one, other);
                one.setSoTimeout(timeout);
                FutureTask<Integer> reader = start(() -> one.getInputStream().read());
                Thread.sleep(200);
                one.close();
                expectClosed(reader, SocketException.class);
                check(other.getInputStream().read() == -1, "no end of stream after close");
                other.close();
            }
            blockedInWrite(server);
            timeouts(server);
            closedChannel(server);
            FutureTask<Socket> acceptor = start(server::accept);
            Thread.sleep(200);
            server.close();
            expectClosed(acceptor, SocketException.class);
        }
    }

    static void blockedInWrite(ServerSocket server) throws Exception {
        Socket one = new Socket(InetAddress.getLoopbackAddress(), server.getLocalPort());
        Socket other = server.accept();
        warm(one, other);
        FutureTask<Void> writer = start(() -> {
            while (true)
                one.getOutputStream().write(new byte[1 << 20]);
        });
        Thread.sleep(300);
        one.close();
        expectClosed(writer, SocketException.class);
        other.close();
    }

    static void timeouts(ServerSocket server) throws Exception {
        try (Socket one = new Socket(InetAddress.getLoopbackAddress(), server.getLocalPort());
             Socket other = server.accept()) {
            warm(one, other);
            one.setSoTimeout(150);
            long before = System.nanoTime();
            try {
                one.getInputStream().read();
                throw new AssertionError("read returned without anything to read");
            } catch (SocketTimeoutException expected) {
                long took = (System.nanoTime() - before) / 1_000_000;
                check(took >= 145 && took < 1500, "timeout after " + took + " ms");
            }
            warm(one, other);       // the connection goes on after a timeout
        }
    }

    static void closedChannel(ServerSocket server) throws Exception {
        SocketChannel one = SocketChannel.open(server.getLocalSocketAddress());
        Socket other = server.accept();
        warm(one.socket(), other);
        FutureTask<Integer> reader = start(() -> one.read(ByteBuffer.allocate(10)));
        Thread.sleep(200);
        one.close();
        expectClosed(reader, AsynchronousCloseException.class);
        check(new DataInputStream(other.getInputStream()).read() == -1, "no end of stream after close of a channel");
        other.close();
    }

    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
        case "streams" -> streams();
        case "channels" -> channels();
        case "closing" -> closing();
        default -> throw new IllegalArgumentException(arguments[0]);
        }
        System.out.println("ok");
    }
}
