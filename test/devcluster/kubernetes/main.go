// Command kubernetes is every Kubernetes program that a local cluster needs,
// in one binary: linking them together costs one link and one set of
// packages instead of six. The first argument picks the program.
//
// The module stands apart from the workspace because k8s.io/kubernetes pins
// its staging modules by replace directives, which must not leak into the
// dependency graph of the driver.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // registers the client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // registers the version metric
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const usage = "usage: %s etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kube-proxy|kubelet|kubectl [arguments]\n"

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintf(os.Stderr, usage, os.Args[0])
		os.Exit(2)
	}
	program := os.Args[1]
	os.Args = os.Args[1:]
	if program == "etcd" {
		etcdmain.Main(os.Args)
		return
	}
	if program == "kubectl" {
		os.Exit(cli.Run(kubectl.NewDefaultKubectlCommand()))
	}
	command, ok := commands()[program]
	if !ok {
		fmt.Fprintf(os.Stderr, "unknown program %q\n"+usage, program, "kubernetes")
		os.Exit(2)
	}
	os.Exit(cli.Run(command()))
}

// commands maps a program's name to its constructor, so that only the chosen
// one registers flags.
func commands() map[string]func() *cobra.Command {
	return map[string]func() *cobra.Command{
		"kube-apiserver":          apiserver.NewAPIServerCommand,
		"kube-controller-manager": controllermanager.NewControllerManagerCommand,
		"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kube-proxy":              proxy.NewProxyCommand,
		"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	}
}
