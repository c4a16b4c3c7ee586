module myapp

go 1.15
