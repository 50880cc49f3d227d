package grpcserver

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/juicefs-csi/driver/libs/logkeys"
)

// onPanic keeps the cause of a panic out of the answer, since nobody chose its
// words.
func onPanic(logger *slog.Logger) func(context.Context, any) error {
	return func(ctx context.Context, cause any) error {
		logger.ErrorContext(ctx, "call panicked", logkeys.Error, cause, logkeys.Stack, string(debug.Stack()))
		return status.Error(codes.Internal, "internal error: the log of this service has the stack")
	}
}

// reporter logs a call when it is over: failed ones by their code, the others
// for debugging. Requests are never logged, they hold secrets; only what they
// are about is.
func reporter(logger *slog.Logger) interceptors.CommonReportableFunc {
	return func(ctx context.Context, call interceptors.CallMeta) (interceptors.Reporter, context.Context) {
		return &callLog{ctx: ctx, logger: logger, method: call.Service + "/" + call.Method}, ctx
	}
}

// callLog is about one call.
type callLog struct {
	ctx     context.Context //nolint:containedctx // belongs to the call that this value is about
	logger  *slog.Logger
	method  string
	subject []slog.Attr
}

// PostMsgReceive remembers what the call is about; a stream's first message
// says it.
func (c *callLog) PostMsgReceive(request any, err error, _ time.Duration) {
	if err == nil && c.subject == nil {
		c.subject = subject(request)
	}
}

// PostMsgSend does nothing.
func (*callLog) PostMsgSend(any, error, time.Duration) {}

// PostCall logs the call.
func (c *callLog) PostCall(err error, duration time.Duration) {
	code := status.Code(err)
	level := levelOf(code)
	if !c.logger.Enabled(c.ctx, level) {
		return
	}
	attributes := append([]slog.Attr{
		slog.String(logkeys.Method, c.method),
		// JSON would have it in nanoseconds.
		slog.String(logkeys.Duration, duration.String()),
	}, c.subject...)
	if err == nil {
		c.logger.LogAttrs(c.ctx, level, "call done", attributes...)
		return
	}
	attributes = append(attributes, slog.String(logkeys.Code, code.String()), slog.String(logkeys.Error, status.Convert(err).Message()))
	c.logger.LogAttrs(c.ctx, level, "call failed", attributes...)
}

// levelOf tells faults of this service from those of its caller and from what
// mends itself. A caller that goes away is daily life.
func levelOf(code codes.Code) slog.Level {
	switch code {
	case codes.OK, codes.Canceled:
		return slog.LevelDebug
	case codes.Unknown, codes.Internal, codes.DataLoss:
		return slog.LevelError
	default:
		return slog.LevelWarn
	}
}

// subject is what a request is about, as far as its message says. The getters
// are those of CSI's and our own generated code.
func subject(request any) []slog.Attr {
	attributes := make([]slog.Attr, 0, 3)
	if message, ok := request.(interface{ GetVolumeId() string }); ok && message.GetVolumeId() != "" {
		attributes = append(attributes, slog.String(logkeys.VolumeID, message.GetVolumeId()))
	}
	if message, ok := request.(interface{ GetMountId() string }); ok && message.GetMountId() != "" {
		attributes = append(attributes, slog.String(logkeys.MountID, message.GetMountId()))
	}
	if path := targetPath(request); path != "" {
		attributes = append(attributes, slog.String(logkeys.TargetPath, path))
	}
	return attributes
}

func targetPath(request any) string {
	switch message := request.(type) {
	case interface{ GetTargetPath() string }:
		return message.GetTargetPath()
	case interface{ GetVolumePath() string }:
		return message.GetVolumePath()
	default:
		return ""
	}
}
