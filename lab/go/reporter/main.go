// reporter says about its node whether a file is there: one key of a Condition ConfigMap, written with the pod's service account.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	pause   = 5 * time.Second // an unchanged answer is sent again too: a ConfigMap that was taken away comes back
)

type object map[string]any

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	for {
		if err := report(ctx); err != nil {
			log.Print(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func report(ctx context.Context) error {
	condition := object{"type": need("CONDITION_TYPE"), "status": "True", "reason": "FileFound", "message": need("FILE") + " is there"}
	if _, err := os.Stat(need("FILE")); err != nil {
		condition["status"], condition["reason"], condition["message"] = "False", "FileMissing", err.Error()
	}
	value, err := json.Marshal(object{"conditions": []object{condition}})
	if err != nil {
		return err
	}
	body := object{
		"apiVersion": "v1",
		"kind":       "ConfigMap",
		"metadata": object{
			"name":        need("CONFIGMAP"),
			"labels":      object{"fleet.dev/conditions": "true"},
			"annotations": object{"fleet.dev/reporter": need("REPORTER")},
		},
		"data": object{need("NODE_NAME"): string(value)},
	}
	maps := "/api/v1/namespaces/" + url.PathEscape(need("NAMESPACE")) + "/configmaps"
	// A merge patch touches the key of this node only; pods of other nodes write theirs into the same ConfigMap.
	code, err := send(ctx, http.MethodPatch, maps+"/"+url.PathEscape(need("CONFIGMAP")), "application/merge-patch+json", body)
	if err == nil && code == http.StatusNotFound {
		code, err = send(ctx, http.MethodPost, maps, "application/json", body)
	}
	if err == nil && code >= 300 && code != http.StatusConflict { // another pod made it just now: the next round patches it
		err = fmt.Errorf("the API server answers %d", code)
	}
	return err
}

func send(ctx context.Context, method, path, contentType string, body object) (int, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	ca, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return 0, err
	}
	token, err := os.ReadFile(account + "token") // read anew each time: the kubelet renews it
	if err != nil {
		return 0, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	server := "https://" + net.JoinHostPort(need("KUBERNETES_SERVICE_HOST"), need("KUBERNETES_SERVICE_PORT"))
	request, err := http.NewRequestWithContext(ctx, method, server+path, bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	answer, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

func need(name string) string {
	value := os.Getenv(name)
	if value == "" {
		log.Fatalf("%s is not set", name)
	}
	return value
}
