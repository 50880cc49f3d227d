// Package grpcclient connects to the gRPC services of this project.
package grpcclient

import (
	"crypto/tls"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/version"
)

// maxMessage is the size of the largest answer in bytes: the list of all mounts
// of a node with many references does not fit gRPC's own 4 MiB.
const maxMessage = 64 << 20

// Options says how to connect.
type Options struct {
	// Name of the caller, for the peer's logs: "juicefs-csi-node".
	Name string
	// TLS is nil for plain text, which is for unix sockets only.
	TLS *tls.Config
	// Credentials are sent with each call, for example a bearer token.
	Credentials credentials.PerRPCCredentials
	// OnConnect is called for each connection that is made, before it carries
	// a call. It must not block. May be nil.
	OnConnect func()
}

// Dial makes a connection to target, which is unix:///path or tcp://host:port.
// It does not wait for the peer. Calls wait for the connection until their own
// deadline, so every call needs one; their errors are those of containerd's
// errdefs, and context errors, with the peer's message.
//
// The caller closes the connection.
func Dial(target string, options Options) (*grpc.ClientConn, error) {
	parsed, err := endpoint.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	connection, err := grpc.NewClient(resolverTarget(parsed), dialOptions(parsed, options)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", target, err)
	}
	return connection, nil
}

func resolverTarget(e endpoint.Endpoint) string {
	if e.Network == endpoint.Unix {
		return "unix://" + e.Address
	}
	return "dns:///" + e.Address
}

func dialOptions(e endpoint.Endpoint, options Options) []grpc.DialOption {
	transport := insecure.NewCredentials()
	if options.TLS != nil {
		transport = credentials.NewTLS(options.TLS)
	}
	result := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithUserAgent(options.Name + "/" + version.Release()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect(e), MinConnectTimeout: 5 * time.Second}),
		// A peer that is stopped or whose node is gone does not answer pings.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithChainUnaryInterceptor(nativeUnary),
		grpc.WithChainStreamInterceptor(nativeStream),
		// The peers are ours: a proxy of the environment is not for them.
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
	}
	if options.Credentials != nil {
		result = append(result, grpc.WithPerRPCCredentials(options.Credentials))
	}
	if options.OnConnect != nil {
		result = append(result, grpc.WithStatsHandler(connects(options.OnConnect)))
	}
	return result
}

// reconnect is short for unix sockets: the peer is on this node, a failed
// connect costs nothing, and applications wait while it restarts.
func reconnect(e endpoint.Endpoint) backoff.Config {
	if e.Network == endpoint.Unix {
		return backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	}
	return backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 15 * time.Second}
}
