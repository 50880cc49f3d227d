// Package custody is the mount manager's side of fdvault.
package custody

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/juicefs-csi/driver/libs/apiversion"
	"github.com/juicefs-csi/driver/libs/fdpass"
	"github.com/juicefs-csi/driver/libs/logkeys"
	vaultv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/vault/v1"
)

// exchangeTimeout bounds one exchange: the vault answers from memory.
const exchangeTimeout = 5 * time.Second

// redialInterval paces attempts to reach a vault that is away.
const redialInterval = 50 * time.Millisecond

// ErrAway says that no vault answers.
var ErrAway = errors.New("the vault is away")

// Client speaks to the vault at one socket. It is safe for concurrent use and
// connects again by itself; a call while the vault is away fails with
// errdefs.ErrUnavailable.
type Client struct {
	socket string
	log    *slog.Logger

	mu   sync.Mutex
	conn *fdpass.Conn
}

// NewClient does not connect yet.
func NewClient(socket string, log *slog.Logger) *Client {
	return &Client{socket: socket, log: log}
}

// Put deposits a duplicate of file; the caller keeps its own.
func (c *Client) Put(ctx context.Context, mountID string, settings []byte, minor uint32, file *os.File) error {
	put := &vaultv1.Put{MountId: mountID, Settings: settings, DeviceMinor: minor}
	_, received, err := c.exchange(ctx, &vaultv1.Request{Operation: &vaultv1.Request_Put{Put: put}}, file)
	fdpass.CloseFiles(received)
	if err != nil {
		return fmt.Errorf("put descriptor of mount %s into the vault: %w", mountID, err)
	}
	return nil
}

// Get returns the settings and a duplicate of the descriptor of a mount, which
// the caller owns; errdefs.ErrNotFound when the vault has none.
func (c *Client) Get(ctx context.Context, mountID string) ([]byte, *os.File, error) {
	get := &vaultv1.Request{Operation: &vaultv1.Request_Get{Get: &vaultv1.Get{MountId: mountID}}}
	response, received, err := c.exchange(ctx, get)
	if entry := response.GetGet().GetEntry(); err == nil && (len(received) != 1 || entry.GetMountId() != mountID) {
		err = fmt.Errorf("vault answered with %d descriptors of mount %q: %w", len(received), entry.GetMountId(), errdefs.ErrInternal)
	}
	if err != nil {
		fdpass.CloseFiles(received)
		return nil, nil, fmt.Errorf("get descriptor of mount %s from the vault: %w", mountID, err)
	}
	return response.GetGet().GetEntry().GetSettings(), received[0], nil
}

// List returns the ids of all mounts that the vault holds.
func (c *Client) List(ctx context.Context) (map[string]bool, error) {
	list := &vaultv1.Request{Operation: &vaultv1.Request_List{List: &vaultv1.List{}}}
	response, received, err := c.exchange(ctx, list)
	fdpass.CloseFiles(received)
	if err != nil {
		return nil, fmt.Errorf("list the vault: %w", err)
	}
	held := make(map[string]bool)
	for _, entry := range response.GetList().GetEntries() {
		held[entry.GetMountId()] = true
	}
	return held, nil
}

// Await returns when a vault answers. It fails with ErrAway when none does
// before ctx ends.
func (c *Client) Await(ctx context.Context) error {
	ticker := time.NewTicker(redialInterval)
	defer ticker.Stop()
	for {
		_, err := c.List(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrAway, err)
		case <-ticker.C:
		}
	}
}

// Remove makes the vault forget a mount. An unknown mount is no error.
func (c *Client) Remove(ctx context.Context, mountID string) error {
	remove := &vaultv1.Request{Operation: &vaultv1.Request_Remove{Remove: &vaultv1.Remove{MountId: mountID}}}
	_, received, err := c.exchange(ctx, remove)
	fdpass.CloseFiles(received)
	if err != nil {
		return fmt.Errorf("remove mount %s from the vault: %w", mountID, err)
	}
	return nil
}

// Watch keeps a connection of its own and calls filled each time that a new
// vault process answers, the first one too; filled must deposit what a new,
// empty vault lacks and is called again when it fails. Watch returns when ctx
// ends.
func (c *Client) Watch(ctx context.Context, filled func(context.Context) error) error {
	ticker := time.NewTicker(redialInterval)
	defer ticker.Stop()
	told := ""
	for ctx.Err() == nil {
		// A vault that stays away is told once.
		if err := c.attend(ctx, filled); err != nil && ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			c.log.WarnContext(ctx, "vault is away", logkeys.Socket, c.socket, logkeys.Error, err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	return nil
}

// attend returns when the vault that answered has ended.
func (c *Client) attend(ctx context.Context, filled func(context.Context) error) error {
	conn, err := dial(ctx, c.socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := filled(ctx); err != nil {
		return fmt.Errorf("fill the vault: %w", err)
	}
	c.log.InfoContext(ctx, "vault is filled", logkeys.Socket, c.socket)
	var nothing vaultv1.Response
	files, err := conn.Receive(ctx, &nothing) // The vault only answers: this ends with it.
	fdpass.CloseFiles(files)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("vault ended: %w", errdefs.ErrUnavailable)
	}
	return err
}

func dial(ctx context.Context, socket string) (*fdpass.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	conn, err := fdpass.Dial(ctx, socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the vault: %w (%w)", err, errdefs.ErrUnavailable)
	}
	if err := greet(ctx, conn); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("handshake with the vault: %w", err)
	}
	return conn, nil
}

// greet checks that the other end is a vault of our own user that speaks our
// version.
func greet(ctx context.Context, conn *fdpass.Conn) error {
	peer, err := conn.Peer()
	if err != nil {
		return err
	}
	if peer.UID != uint32(os.Geteuid()) {
		return fmt.Errorf("it runs as uid %d instead of %d: %w", peer.UID, os.Geteuid(), errdefs.ErrPermissionDenied)
	}
	ours := apiversion.Vault()
	hello := &vaultv1.Request{Operation: &vaultv1.Request_Handshake{
		Handshake: &vaultv1.Handshake{Version: ours.Version, MinVersion: ours.MinVersion},
	}}
	response, files, err := roundTrip(ctx, conn, hello)
	fdpass.CloseFiles(files)
	if err != nil {
		return err
	}
	theirs := response.GetHandshake()
	return ours.Check(apiversion.Range{Version: theirs.GetVersion(), MinVersion: theirs.GetMinVersion()})
}

// exchange sends one request. A broken connection is replaced once, because
// the vault may have been restarted since the last call. A connection whose
// answer was not awaited is closed: the next call must not take it for its own.
func (c *Client) exchange(ctx context.Context, request *vaultv1.Request, files ...*os.File) (*vaultv1.Response, []*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		fresh := c.conn == nil
		if fresh {
			conn, err := dial(ctx, c.socket)
			if err != nil {
				return nil, nil, err
			}
			c.conn = conn
		}
		response, received, err := roundTrip(ctx, c.conn, request, files...)
		if !errdefs.IsUnavailable(err) {
			return response, received, err
		}
		_ = c.conn.Close()
		c.conn = nil
		if fresh {
			return nil, nil, err
		}
	}
}

// roundTrip fails with errdefs.ErrUnavailable when the connection is broken.
func roundTrip(ctx context.Context, conn *fdpass.Conn, request *vaultv1.Request, files ...*os.File) (*vaultv1.Response, []*os.File, error) {
	if err := conn.Send(ctx, request, files...); err != nil {
		return nil, nil, fmt.Errorf("%w (%w)", err, errdefs.ErrUnavailable)
	}
	var response vaultv1.Response
	received, err := conn.Receive(ctx, &response)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (%w)", err, errdefs.ErrUnavailable)
	}
	if failure := response.GetFailure(); failure != nil {
		fdpass.CloseFiles(received)
		return nil, nil, errgrpc.ToNative(status.Error(codes.Code(failure.GetCode()), failure.GetMessage()))
	}
	return &response, received, nil
}
