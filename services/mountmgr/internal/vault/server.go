package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/status"

	"github.com/juicefs-csi/driver/libs/apiversion"
	"github.com/juicefs-csi/driver/libs/fdpass"
	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/version"
	vaultv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/vault/v1"
)

// Server answers juicefs.csi.vault.v1 for one Vault.
type Server struct {
	vault    *Vault
	log      *slog.Logger
	instance string
}

// NewServer returns a server with a new random instance name.
func NewServer(vault *Vault, log *slog.Logger) *Server {
	return &Server{vault: vault, log: log, instance: rand.Text()}
}

// Serve accepts connections until ctx ends. Only who runs as the vault's own
// user, root, may connect: the vault gives file systems away. It closes
// listener before it returns.
func (s *Server) Serve(ctx context.Context, listener *fdpass.Listener) error {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = listener.Close()
	})
	defer func() {
		if stop() {
			_ = listener.Close()
		} else {
			<-closed // Or it could remove the socket of the next server.
		}
	}()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go s.serve(ctx, conn)
	}
}

func (s *Server) serve(ctx context.Context, conn *fdpass.Conn) {
	defer func() { _ = conn.Close() }()
	peer, err := conn.Peer()
	if err != nil || peer.UID != uint32(os.Geteuid()) {
		s.log.WarnContext(ctx, "refused a connection", logkeys.Peer, peer, logkeys.Error, err)
		return
	}
	for {
		if err := s.exchange(ctx, conn); err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.log.WarnContext(ctx, "connection failed", logkeys.PID, peer.PID, logkeys.Error, err)
			}
			return
		}
	}
}

// exchange answers one request. Its error ends the connection.
func (s *Server) exchange(ctx context.Context, conn *fdpass.Conn) error {
	var request vaultv1.Request
	files, err := conn.Receive(ctx, &request)
	if err != nil {
		return err
	}
	response, file, err := s.handle(&request, files)
	if err != nil {
		failure := status.Convert(errgrpc.ToGRPC(err))
		response = &vaultv1.Response{Failure: &vaultv1.Failure{Code: uint32(failure.Code()), Message: failure.Message()}}
	}
	if file == nil {
		return conn.Send(ctx, response)
	}
	defer func() { _ = file.Close() }()
	return conn.Send(ctx, response, file)
}

// handle takes ownership of files and gives away the returned file.
func (s *Server) handle(request *vaultv1.Request, files []*os.File) (*vaultv1.Response, *os.File, error) {
	if put := request.GetPut(); put != nil {
		return s.put(put, files)
	}
	fdpass.CloseFiles(files) // No other request carries one.
	switch operation := request.GetOperation().(type) {
	case *vaultv1.Request_Handshake:
		return s.handshake(operation.Handshake)
	case *vaultv1.Request_Get:
		entry, file, err := s.vault.Get(operation.Get.GetMountId())
		return &vaultv1.Response{Result: &vaultv1.Response_Get{Get: &vaultv1.GetResult{Entry: entry}}}, file, err
	case *vaultv1.Request_List:
		list := &vaultv1.ListResult{Entries: s.vault.List()}
		return &vaultv1.Response{Result: &vaultv1.Response_List{List: list}}, nil, nil
	case *vaultv1.Request_Remove:
		err := s.vault.Remove(operation.Remove.GetMountId())
		return &vaultv1.Response{Result: &vaultv1.Response_Remove{Remove: &vaultv1.RemoveResult{}}}, nil, err
	default:
		return nil, nil, fmt.Errorf("unknown operation: %w", errdefs.ErrNotImplemented)
	}
}

func (s *Server) put(put *vaultv1.Put, files []*os.File) (*vaultv1.Response, *os.File, error) {
	var file *os.File
	if len(files) > 0 {
		file = files[0]
		fdpass.CloseFiles(files[1:]) // More than one was never asked for.
	}
	err := s.vault.Put(put, file)
	return &vaultv1.Response{Result: &vaultv1.Response_Put{Put: &vaultv1.PutResult{}}}, nil, err
}

func (s *Server) handshake(h *vaultv1.Handshake) (*vaultv1.Response, *os.File, error) {
	ours := apiversion.Vault()
	if err := ours.Check(apiversion.Range{Version: h.GetVersion(), MinVersion: h.GetMinVersion()}); err != nil {
		return nil, nil, err
	}
	return &vaultv1.Response{Result: &vaultv1.Response_Handshake{Handshake: &vaultv1.HandshakeResult{
		Version: ours.Version, MinVersion: ours.MinVersion, Release: version.Release(), Instance: s.instance,
	}}}, nil, nil
}
