// Command image builds container images without Docker, as archives for
// "ctr images import" or "docker load":
//
//	image build --service controller --binary bin/juicefs-csi-controller --tag T --output F
//	image mount --juicefs PATH --tag T --output F
//	image app --tag T --output F
//
// build makes the image of a service from the service's Dockerfile; mount and
// app make images of the local cluster from programs of this machine: a mount
// image with a JuiceFS client, and a small userland for test applications.
// Equal inputs give equal bytes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// run dispatches on the first argument.
func run(args []string) error {
	if len(args) == 0 {
		return errors.New("name a command: build, mount or app")
	}
	switch args[0] {
	case "build":
		return runBuild(args[1:])
	case "mount":
		return runMount(args[1:])
	case "app":
		return runApp(args[1:])
	}
	return fmt.Errorf("unknown command %q: build, mount or app", args[0])
}

// stringList is a flag that may be given more than once.
type stringList []string

// String implements flag.Value.
func (l *stringList) String() string { return strings.Join(*l, ",") }

// Set implements flag.Value.
func (l *stringList) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// outputFlags are the flags of every command.
type outputFlags struct {
	tag, output, arch string
}

func (o *outputFlags) add(flags *flag.FlagSet) {
	flags.StringVar(&o.tag, "tag", "", "reference of the image, e.g. juicefs-csi/node:v0.1.0")
	flags.StringVar(&o.output, "output", "", "the archive to write")
	flags.StringVar(&o.arch, "arch", runtime.GOARCH, "architecture of the programs")
}

func (o *outputFlags) validate() error {
	if o.tag == "" || o.output == "" {
		return errors.New("--tag and --output are needed")
	}
	return nil
}

func runBuild(args []string) error {
	var (
		out               outputFlags
		binaries          stringList
		root, service     string
		release, revision string
	)
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	out.add(flags)
	flags.Var(&binaries, "binary", "a compiled program, found by its base name; once for each program of the image")
	flags.StringVar(&root, "root", ".", "the root of the source tree")
	flags.StringVar(&service, "service", "", "controller, node, mountmgr or dashboard")
	flags.StringVar(&release, "release", "", "value of the build argument RELEASE; empty: the Dockerfile's")
	flags.StringVar(&revision, "revision", "", "value of the build argument REVISION; empty: the Dockerfile's")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := out.validate(); err != nil {
		return err
	}
	buildArgs := map[string]string{}
	if release != "" {
		buildArgs["RELEASE"] = release
	}
	if revision != "" {
		buildArgs["REVISION"] = revision
	}
	path := filepath.Join(root, "services", service, "Dockerfile")
	file, err := readDockerfile(path, buildArgs)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	spec, err := file.image(root, binaries)
	if err != nil {
		return fmt.Errorf("build the image of %s: %w", service, err)
	}
	return spec.write(out)
}

func runMount(args []string) error {
	var (
		out     outputFlags
		client  string
		busybox string
		ca      string
	)
	flags := flag.NewFlagSet("mount", flag.ContinueOnError)
	out.add(flags)
	flags.StringVar(&client, "juicefs", "", "the static JuiceFS client")
	flags.StringVar(&busybox, "busybox", "/bin/busybox", "a static busybox")
	flags.StringVar(&ca, "ca", "/etc/ssl/certs/ca-certificates.crt", "the certificates of the authorities that the client trusts")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := out.validate(); err != nil {
		return err
	}
	spec, err := mountImage(client, busybox, ca)
	if err != nil {
		return fmt.Errorf("build a mount image: %w", err)
	}
	return spec.write(out)
}

func runApp(args []string) error {
	var (
		out     outputFlags
		busybox string
	)
	flags := flag.NewFlagSet("app", flag.ContinueOnError)
	out.add(flags)
	flags.StringVar(&busybox, "busybox", "/bin/busybox", "a static busybox")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := out.validate(); err != nil {
		return err
	}
	spec, err := appImage(busybox)
	if err != nil {
		return fmt.Errorf("build the app image: %w", err)
	}
	return spec.write(out)
}
