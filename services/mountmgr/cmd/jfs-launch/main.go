// Command jfs-launch is PID 1 of a mount pod. It also removes a directory of a
// file system without mounting it, and installs itself where mount pods find it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/juicefs-csi/driver/libs/version"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientdir"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/sandbox"
)

const usage = `usage: jfs-launch serve --socket=PATH [--pass-env=NAME,...] [--termination-log=FILE] [--log=FILE]
       jfs-launch classic --spec=FILE [--pass-env=NAME,...] [--termination-log=FILE]
       jfs-launch copy --image=IMAGE DIRECTORY
       jfs-launch install DIRECTORY
       jfs-launch expand PROGRAM [ARGUMENT | --FLAG=${NAME}]...
       jfs-launch reach HOST:PORT
       jfs-launch remove --spec=FILE --path=/DIRECTORY [--timeout=1h] [--pass-env=NAME,...] [--termination-log=FILE]
       jfs-launch version
`

// Every mount pod runs this program, most of the time idle: memory is worth
// more than the time of the collector.
const (
	memoryLimit = 6 << 20
	gcPercent   = 20
)

func main() {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(gcPercent)
	os.Exit(run(os.Args[1:]))
}

func run(arguments []string) int {
	if len(arguments) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	commands := map[string]func([]string) (int, error){
		"serve": serve, "classic": classic, "install": install, "expand": expand, "reach": reach, "remove": remove, "version": printVersion,
		"copy": copyClient, "enter": enter,
	}
	command, known := commands[arguments[0]]
	if !known {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	code, err := command(arguments[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "jfs-launch: %s: %v\n", arguments[0], err)
	}
	return code
}

func serve(arguments []string) (int, error) {
	// The client makes the directory of a new volume with the mode 0777 less the
	// umask (quota set --create): applications of any user write there. What
	// this program makes has its mode set explicitly.
	syscall.Umask(0)
	options := launch.Options{
		StateDirectory: "/tmp",
		Environment:    os.Environ(),
		ReapOrphans:    os.Getpid() == 1,
	}
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	options.AddFlags(flags)
	logFile := flags.String("log", "", "`file` for all output, renamed to FILE.1 when it is full; empty for the standard streams")
	if err := flags.Parse(arguments); err != nil {
		return 2, nil // flags has said why
	}
	records, err := openOutput(&options, *logFile)
	if err != nil {
		return 1, err
	}
	log := output.NewLog(records)
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		log.Close(ctx.Done())
	}()
	options.Logger = slog.New(slog.NewTextHandler(log, nil))
	if err := options.Validate(); err != nil {
		return 2, err
	}
	return launch.Serve(context.Background(), options)
}

// logSize is the size of one of the two files of --log, in bytes.
const logSize = 512 << 10

// openOutput sets where the client's output goes and returns where ours does.
func openOutput(options *launch.Options, path string) (io.Writer, error) {
	if path == "" {
		options.Output = os.Stdout
		return os.Stderr, nil
	}
	file, err := output.OpenRotating(path, logSize)
	options.Output = file
	return file, err
}

// enter is the beginning of a process that is to be confined.
func enter([]string) (int, error) { return 1, sandbox.Main(os.Environ()) }

// copyClient runs in a mount image and copies its client to where clients that
// run without a pod find it.
func copyClient(arguments []string) (int, error) {
	flags := flag.NewFlagSet("copy", flag.ContinueOnError)
	image := flags.String("image", "", "`reference` of the image that this runs in")
	if err := flags.Parse(arguments); err != nil {
		return 2, nil //nolint:nilerr // flags has said why
	}
	if flags.NArg() != 1 || *image == "" {
		return 2, errors.New("name the image and one directory")
	}
	if err := clientdir.Copy("/", flags.Arg(0), *image); err != nil {
		return 1, err
	}
	return 0, nil
}

func remove(arguments []string) (int, error) {
	options := launch.RemoveOptions{OnceOptions: onceOptions()}
	spec, code, err := prepare("remove", arguments, &options, &options.SpecFile)
	if spec == nil {
		return code, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := launch.Remove(ctx, spec, options); err != nil {
		return 1, err
	}
	return 0, nil
}

// classic runs a client that mounts by itself and is its own supervisor.
func classic(arguments []string) (int, error) {
	options := onceOptions()
	spec, code, err := prepare("classic", arguments, &options, &options.SpecFile)
	if spec == nil {
		return code, err
	}
	return 1, launch.Exec(context.Background(), spec, options)
}

func onceOptions() launch.OnceOptions {
	return launch.OnceOptions{
		Environment: os.Environ(),
		ReapOrphans: os.Getpid() == 1,
		Output:      os.Stdout,
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
}

// settings are what flags set.
type settings interface {
	AddFlags(flags *flag.FlagSet)
	Validate() error
}

// prepare reads the options of a command and its spec; without a spec it says
// how the command ends.
func prepare(name string, arguments []string, options settings, specFile *string) (*launchv1.Spec, int, error) {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	options.AddFlags(flags)
	if err := flags.Parse(arguments); err != nil {
		return nil, 2, nil //nolint:nilerr // flags has said why
	}
	if err := options.Validate(); err != nil {
		return nil, 2, err
	}
	spec, err := readSpec(*specFile)
	return spec, 1, err
}

func readSpec(path string) (*launchv1.Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	spec := new(launchv1.Spec)
	if err := protojson.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("%s does not hold a spec in JSON", path) // the text may quote a secret
	}
	return spec, nil
}

func install(arguments []string) (int, error) {
	if len(arguments) != 1 {
		return 2, fmt.Errorf("want one directory, got %d arguments", len(arguments))
	}
	if err := launch.Install("/proc/self/exe", arguments[0]); err != nil {
		return 1, err
	}
	return 0, nil
}

// expand becomes the program, with variables of the environment in its flags.
func expand(arguments []string) (int, error) {
	if len(arguments) == 0 {
		return 2, errors.New("name a program")
	}
	if err := unix.Exec(arguments[0], launch.Expand(arguments, os.Environ()), os.Environ()); err != nil {
		return 1, fmt.Errorf("execute %s: %w", arguments[0], err)
	}
	return 0, nil
}

func printVersion([]string) (int, error) {
	fmt.Fprintln(os.Stdout, version.Release()) //nolint:errcheck // nowhere to say it
	return 0, nil
}

// reachTimeout is how long a server may take to answer a connection.
const reachTimeout = 5 * time.Second

// reach connects to a server, to tell soon and clearly that it cannot be done.
func reach(arguments []string) (int, error) {
	if len(arguments) != 1 {
		return 2, errors.New("name one HOST:PORT")
	}
	dialer := net.Dialer{Timeout: reachTimeout}
	conn, err := dialer.DialContext(context.Background(), "tcp", arguments[0])
	if err != nil {
		return 1, err
	}
	return 0, conn.Close()
}
